/* Gives a host process its own scheduling cookie. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    /* PR_SCHED_CORE, PR_SCHED_CORE_GET: what the kernel asks is the right to trace. */
    unsigned long cookie;
    if (prctl(62, 0, atoi(word[n - 1]), 0, &cookie) == 0) reached();
    if (errno == EINVAL || errno == ENODEV) absent("no core scheduling");
    refused_call("prctl");
}
