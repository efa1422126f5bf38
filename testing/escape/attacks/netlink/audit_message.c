/* Writes a message of its own into the host's audit log. */
#include "attack.h"
#include <linux/netlink.h>

void attack(int n, char **word) {
    struct { struct nlmsghdr head; char text[16]; } request = {
        {sizeof request, 1112 /* AUDIT_USER_LOGIN */, NLM_F_REQUEST | NLM_F_ACK, 1, 0}, "fvm-escape"};
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
    if (answer.head.nlmsg_type == NLMSG_ERROR && answer.error == 0) reached();
    errno = -answer.error;
    refused_call("AUDIT_USER_LOGIN");
}
