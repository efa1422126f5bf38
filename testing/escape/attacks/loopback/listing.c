/* Finds a TCP port of the host's in /proc/net/tcp. */
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
    char needle[32];
    snprintf(needle, sizeof needle, "0100007F:%04X ", atoi(word[n - 1]));
    if (text_has("/proc/net/tcp", needle)) reached();
    refused("not in the listing");
}
