/* Hears the kernel's device events. */
#include "attack.h"
#include <linux/netlink.h>

void victim(void) {
    const char *device = "/sys/devices/virtual/mem/null/uevent";
    if (access(device, W_OK) < 0) {
        puts("absent: this user may cause no event");
        return;
    }
    ready("null");
    /* "change" without a change: what udevadm trigger does. */
    for (;;) {
        int fd = open(device, O_WRONLY);
        if (fd < 0 || write(fd, "change", 6) < 0) _exit(1);
        close(fd);
        usleep(100000);
    }
}
void attack(int n, char **word) {
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
    char text[4096];
    (void)n;
    (void)word;
    int fd = (int)TRY(socket(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT));
    TRY(bind(fd, (struct sockaddr *)&address, sizeof address));
    struct pollfd wait = {fd, POLLIN, 0};
    if (poll(&wait, 1, 600) == 1 && recv(fd, text, sizeof text, 0) > 0) reached();
    refused("no event came");
}
