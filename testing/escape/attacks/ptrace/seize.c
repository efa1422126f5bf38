/* Seizes a host process with ptrace. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

#include <sys/ptrace.h>

void attack(int n, char **word) {
    TRY(ptrace(PTRACE_SEIZE, atoi(word[n - 1]), 0, 0));
    reached();
}
