/* Asks the audit system for its state. */
#include "attack.h"
#include <linux/netlink.h>

void attack(int n, char **word) {
    struct nlmsghdr request = {sizeof request, 1000 /* AUDIT_GET */, NLM_F_REQUEST | NLM_F_ACK, 1, 0};
    struct { struct nlmsghdr head; int error; char rest[512]; } answer;
    (void)n;
    (void)word;
    int fd = (int)socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT);
    if (fd < 0 && errno == EPROTONOSUPPORT) absent("no audit system");
    TRY(fd);
    TRY(send(fd, &request, sizeof request, 0));
    struct pollfd wait = {fd, POLLIN, 0};
    if (poll(&wait, 1, 600) != 1) refused("no answer");
    TRY(recv(fd, &answer, sizeof answer, 0));
    if (answer.head.nlmsg_type != NLMSG_ERROR || answer.error == 0) reached();
    errno = -answer.error;
    refused_call("AUDIT_GET");
}
