/* Asks taskstats for the statistics of a host process. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/taskstats.h>

struct request { struct nlmsghdr head; struct genlmsghdr body; struct nlattr attribute; char value[16]; };

static struct nlmsghdr *talk(int fd, int family, int command, int attribute, const void *value, int length) {
    static char answer[8192];
    struct request request = {.head = {0, (uint16_t)family, NLM_F_REQUEST, 1, 0}, .body = {(uint8_t)command, 1, 0}};
    request.attribute = (struct nlattr){(uint16_t)(NLA_HDRLEN + length), (uint16_t)attribute};
    memcpy(request.value, value, (size_t)length);
    request.head.nlmsg_len = (uint32_t)(NLMSG_HDRLEN + GENL_HDRLEN + NLA_HDRLEN + NLA_ALIGN(length));
    TRY(send(fd, &request, request.head.nlmsg_len, 0));
    TRY(recv(fd, answer, sizeof answer, 0));
    return (void *)answer;
}

void attack(int n, char **word) {
    uint32_t pid = (uint32_t)atoi(word[n - 1]);
    int fd = (int)TRY(socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC)), family = 0;
    struct nlmsghdr *answer = talk(fd, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, "TASKSTATS", 10);
    if (answer->nlmsg_type == NLMSG_ERROR) absent("no taskstats");
    char *at = (char *)answer + NLMSG_HDRLEN + GENL_HDRLEN, *end = (char *)answer + answer->nlmsg_len;
    while (at < end) {
        struct nlattr *attribute = (void *)at;
        if (attribute->nla_type == CTRL_ATTR_FAMILY_ID) family = *(uint16_t *)(at + NLA_HDRLEN);
        at += NLA_ALIGN(attribute->nla_len);
    }
    answer = talk(fd, family, TASKSTATS_CMD_GET, TASKSTATS_CMD_ATTR_PID, &pid, 4);
    if (answer->nlmsg_type == family) reached();
    errno = -((struct nlmsgerr *)NLMSG_DATA(answer))->error;
    refused_call("TASKSTATS_CMD_GET");
}
