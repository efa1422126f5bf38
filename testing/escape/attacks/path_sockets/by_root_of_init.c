/* Connects to a host's socket by way of /proc/1/root. */
#include "attack.h"

void victim(void) { listen_at(own_path("sock"), SOCK_STREAM); }
void attack(int n, char **word) {
    char other[PATH_MAX + 16];
    snprintf(other, sizeof other, "/proc/1/root%s", word[n - 1]);
    connect_to(other, SOCK_STREAM);
}
