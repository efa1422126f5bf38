/* Queues a signal with a value for a host process. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    TRY(sigqueue(atoi(word[n - 1]), SIGCONT, (union sigval){.sival_int = 1}));
    reached();
}
