/* Learns that a host process listens on a vsock port, and could take one before it. */
#include "attack.h"
#include <linux/vm_sockets.h>

void victim(void) {
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 40000 + (unsigned)getpid() % 20000};
    int fd = (int)socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        puts("absent: no vsock");
        return;
    }
    listen(fd, 1);
    ready("%u", address.svm_port);
    wait_for_end();
}
void attack(int n, char **word) {
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = (unsigned)atoi(word[n - 1])};
    int fd = (int)TRY(socket(AF_VSOCK, SOCK_STREAM, 0));
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno == EADDRINUSE) reached();
    refused("the port is free here");
}
