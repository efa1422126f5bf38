/* Finds a host process in the scheduler's list. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (access("/proc/sched_debug", F_OK) < 0 && access("/sys/kernel/debug/sched/debug", F_OK) < 0)
        absent("no list of the scheduler's");
    if (text_has("/proc/sched_debug", "runnable tasks") || text_has("/sys/kernel/debug/sched/debug", "runnable tasks")) reached();
    refused("no tasks in it");
}
