/* Gives itself a real-time priority, before all of the host's processes. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct sched_param parameter = {.sched_priority = 1};
    TRY(sched_setscheduler(0, SCHED_FIFO, &parameter));
    reached();
}
