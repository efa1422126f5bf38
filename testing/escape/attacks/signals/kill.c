/* Signals a host process by its number. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    TRY(kill(atoi(word[n - 1]), SIGCONT));
    reached();
}
