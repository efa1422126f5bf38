/* Connects to a TCP port on another address of the host's. */
#include "attack.h"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>

void victim(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    struct ifaddrs *all = NULL;
    MAKE(getifaddrs(&all));
    while (all && (!all->ifa_addr || all->ifa_addr->sa_family != AF_INET || all->ifa_flags & IFF_LOOPBACK)) all = all->ifa_next;
    if (!all) {
        puts("absent: the host has no address but loopback's");
        return;
    }
    address.sin_addr = ((struct sockaddr_in *)all->ifa_addr)->sin_addr;
    int fd = (int)MAKE(socket(AF_INET, SOCK_STREAM, 0));
    MAKE(bind(fd, (struct sockaddr *)&address, length));
    MAKE(listen(fd, 4));
    MAKE(getsockname(fd, (struct sockaddr *)&address, &length));
    ready("%s %d", inet_ntoa(address.sin_addr), ntohs(address.sin_port));
    wait_for_end();
}
void attack(int n, char **word) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(word[n - 1]))};
    inet_aton(word[0], &address.sin_addr);
    int fd = (int)TRY(socket(AF_INET, SOCK_STREAM, 0));
    TRY(connect(fd, (struct sockaddr *)&address, sizeof address));
    reached();
}
