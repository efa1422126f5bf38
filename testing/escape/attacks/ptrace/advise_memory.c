/* Advises on the memory of a host process with process_madvise. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

#include <sys/uio.h>

void attack(int n, char **word) {
    int process = (int)TRY(syscall(SYS_pidfd_open, atoi(word[n - 1]), 0));
    /* A place that is not mapped: the answer comes after the question of permission. */
    struct iovec there = {(void *)4096, 4096};
    if (syscall(SYS_process_madvise, process, &there, 1, MADV_COLD, 0) == 0 || errno == ENOMEM) reached();
    refused_call("process_madvise");
}
