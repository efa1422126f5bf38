/* Attaches to a host process with ptrace. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

#include <sys/ptrace.h>

void attack(int n, char **word) {
    int pid = atoi(word[n - 1]);
    TRY(ptrace(PTRACE_ATTACH, pid, 0, 0));
    waitpid(pid, NULL, 0);
    ptrace(PTRACE_DETACH, pid, 0, 0);
    reached();
}
