/* Attaches to the first process, which the keeper made, with ptrace. */
#include "attack.h"
#include <sys/ptrace.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    TRY(ptrace(PTRACE_SEIZE, 1, 0, 0));
    reached();
}
