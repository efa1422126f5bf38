/* Counts the events of a host process with perf_event_open. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

#include <linux/perf_event.h>

void attack(int n, char **word) {
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_TASK_CLOCK,
                                    .exclude_kernel = 1, .exclude_hv = 1};
    TRY(syscall(SYS_perf_event_open, &event, atoi(word[n - 1]), -1, -1, 0));
    reached();
}
