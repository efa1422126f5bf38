/* Connects to a TCP port on the host's loopback. */
#include "attack.h"
#include <arpa/inet.h>

void victim(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = (int)MAKE(socket(AF_INET, SOCK_STREAM, 0));
    MAKE(bind(fd, (struct sockaddr *)&address, length));
    MAKE(listen(fd, 4));
    MAKE(getsockname(fd, (struct sockaddr *)&address, &length));
    ready("%d", ntohs(address.sin_port));
    wait_for_end();
}
void attack(int n, char **word) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(word[n - 1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = (int)TRY(socket(AF_INET, SOCK_STREAM, 0));
    TRY(connect(fd, (struct sockaddr *)&address, sizeof address));
    reached();
}
