/* Finds the name of an abstract socket in /proc/net/unix. */
#include "attack.h"

void victim(void) { listen_abstract(strrchr(own_path("sock"), '/') + 1, SOCK_STREAM); }
void attack(int n, char **word) {
    if (text_has("/proc/net/unix", word[n - 1])) reached();
    refused("/proc/net/unix has no such name");
}
