/* Sees packets of the host's with a packet socket. */
#include "attack.h"
#include <arpa/inet.h>
#include <linux/if_ether.h>

void victim(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = (int)MAKE(socket(AF_INET, SOCK_DGRAM, 0));
    ready("x");
    for (;;) {
        sendto(fd, SECRET, strlen(SECRET), 0, (struct sockaddr *)&address, sizeof address);
        usleep(50000);
    }
}
void attack(int n, char **word) {
    char text[4096];
    (void)n;
    (void)word;
    int fd = (int)TRY(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)));
    for (int i = 0; i < 200; i++) {
        struct pollfd wait = {fd, POLLIN, 0};
        if (poll(&wait, 1, 500) != 1) break;
        ssize_t length = recv(fd, text, sizeof text, 0);
        if (length > 0 && memmem(text, (size_t)length, SECRET, strlen(SECRET))) reached();
    }
    refused("no packet of the host's came");
}
