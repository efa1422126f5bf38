/* Changes the priority of a host process at the disk. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    TRY(syscall(SYS_ioprio_set, 1, atoi(word[n - 1]), 2 << 13 | 4));
    reached();
}
