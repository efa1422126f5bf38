/* Connects to an X11 server by its abstract name. */
#include "attack.h"

void victim(void) {
    char name[64];
    snprintf(name, sizeof name, "/tmp/.X11-unix/X%d", getpid());
    listen_abstract(name, SOCK_STREAM);
}
void attack(int n, char **word) { connect_abstract(word[n - 1], SOCK_STREAM); }
