/* Changes the processors of a host process. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    cpu_set_t set;
    int pid = atoi(word[n - 1]);
    TRY(sched_getaffinity(pid, sizeof set, &set));
    TRY(sched_setaffinity(pid, sizeof set, &set));
    reached();
}
