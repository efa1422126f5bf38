/* Compares its resources with a host process's with kcmp. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

#include <linux/kcmp.h>

void attack(int n, char **word) {
    TRY(syscall(SYS_kcmp, getpid(), atoi(word[n - 1]), KCMP_VM, 0, 0));
    reached();
}
