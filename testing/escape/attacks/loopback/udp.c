/* Sends a datagram to a UDP port on the host's loopback. */
#include "attack.h"
#include <arpa/inet.h>

void victim(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    char byte;
    const char *mark = own_path("mark");
    int fd = (int)MAKE(socket(AF_INET, SOCK_DGRAM, 0));
    MAKE(bind(fd, (struct sockaddr *)&address, length));
    MAKE(getsockname(fd, (struct sockaddr *)&address, &length));
    ready("%d %s", ntohs(address.sin_port), mark);
    MAKE(recv(fd, &byte, 1, 0));
    hit(mark);
    wait_for_end();
}
void attack(int n, char **word) {
    (void)n;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(word[0])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = (int)TRY(socket(AF_INET, SOCK_DGRAM, 0));
    TRY(sendto(fd, "x", 1, 0, (struct sockaddr *)&address, sizeof address));
    ask();
}
void check(int n, char **word) { check_hit(word[n - 1]); }
