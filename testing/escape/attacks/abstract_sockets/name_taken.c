/* Learns that an abstract name is in use because it cannot bind it. */
#include "attack.h"

void victim(void) { listen_abstract(strrchr(own_path("sock"), '/') + 1, SOCK_STREAM); }
void attack(int n, char **word) {
    struct sockaddr_un address;
    socklen_t length = unix_abstract(&address, word[n - 1]);
    int fd = (int)TRY(socket(AF_UNIX, SOCK_STREAM, 0));
    if (bind(fd, (struct sockaddr *)&address, length) < 0 && errno == EADDRINUSE) reached();
    refused("the name is free here");
}
