/* Takes a descriptor of the first process: its orders come on one. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    int process = (int)TRY(syscall(SYS_pidfd_open, 1, 0));
    for (int fd = 0; fd < 64; fd++)
        if (syscall(SYS_pidfd_getfd, process, fd, 0) >= 0) reached();
    refused_call("pidfd_getfd");
}
