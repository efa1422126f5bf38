/* Opens a host process as a descriptor and signals it. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    int fd = (int)TRY(syscall(SYS_pidfd_open, atoi(word[n - 1]), 0));
    TRY(syscall(SYS_pidfd_send_signal, fd, SIGCONT, NULL, 0));
    reached();
}
