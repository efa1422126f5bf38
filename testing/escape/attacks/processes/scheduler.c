/* Changes the scheduling of a host process. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    struct sched_param parameter = {0};
    TRY(sched_setscheduler(atoi(word[n - 1]), SCHED_BATCH, &parameter));
    reached();
}
