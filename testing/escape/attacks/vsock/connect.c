/* Asks the machine's hypervisor for a connection. */
#include "attack.h"
#include <linux/vm_sockets.h>

void attack(int n, char **word) {
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 1};
    (void)n;
    (void)word;
    int fd = (int)socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0 && errno == EAFNOSUPPORT) absent("no vsock");
    TRY(fd);
    /* The other side's refusal is an answer too. */
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == ECONNRESET || errno == ECONNREFUSED)
        reached();
    if (errno == ENODEV || errno == ETIMEDOUT || errno == ENETUNREACH) absent("no hypervisor answers");
    refused_call("connect");
}
