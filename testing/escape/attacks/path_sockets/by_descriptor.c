/* Opens a host's socket as a path only and connects through /proc/self/fd. */
#include "attack.h"

void victim(void) { listen_at(own_path("sock"), SOCK_STREAM); }
void attack(int n, char **word) {
    char other[64];
    int fd = (int)TRY(open(word[n - 1], O_PATH | O_CLOEXEC));
    snprintf(other, sizeof other, "/proc/self/fd/%d", fd);
    connect_to(other, SOCK_STREAM);
}
