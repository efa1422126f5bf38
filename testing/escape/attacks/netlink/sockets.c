/* Finds a listening port of the host's by sock_diag. */
#include "attack.h"
#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>

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
    struct { struct nlmsghdr head; struct inet_diag_req_v2 body; } request = {
        {sizeof request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 0, 0},
        {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = -1U}};
    static char answer[1 << 16];
    int fd = (int)TRY(socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG));
    TRY(send(fd, &request, sizeof request, 0));
    for (;;) {
        ssize_t length = TRY(recv(fd, answer, sizeof answer, 0));
        for (struct nlmsghdr *m = (void *)answer; NLMSG_OK(m, (size_t)length); m = NLMSG_NEXT(m, length)) {
            if (m->nlmsg_type == NLMSG_DONE || m->nlmsg_type == NLMSG_ERROR) refused("not among the sockets");
            struct inet_diag_msg *socket = NLMSG_DATA(m);
            if (ntohs(socket->id.idiag_sport) == atoi(word[n - 1])) reached();
        }
    }
}
