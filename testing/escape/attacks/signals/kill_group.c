/* Signals a process group of the host's. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    TRY(killpg(atoi(word[n - 1]), SIGCONT));
    reached();
}
