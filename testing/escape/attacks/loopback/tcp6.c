/* Connects to a TCP port on the host's IPv6 loopback. */
#include "attack.h"
#include <arpa/inet.h>

void victim(void) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) < 0) {
        puts("absent: no IPv6 loopback");
        return;
    }
    MAKE(listen(fd, 4));
    MAKE(getsockname(fd, (struct sockaddr *)&address, &length));
    ready("%d", ntohs(address.sin6_port));
    wait_for_end();
}
void attack(int n, char **word) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(word[n - 1])), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = (int)TRY(socket(AF_INET6, SOCK_STREAM, 0));
    TRY(connect(fd, (struct sockaddr *)&address, sizeof address));
    reached();
}
