/* Signals a thread of a host process. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    int pid = atoi(word[n - 1]);
    TRY(syscall(SYS_tgkill, pid, pid, SIGCONT));
    reached();
}
