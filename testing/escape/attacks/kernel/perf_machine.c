/* Counts the events of a whole processor. */
#include "attack.h"
#include <linux/perf_event.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct perf_event_attr event = {.type = PERF_TYPE_SOFTWARE, .size = sizeof event, .config = PERF_COUNT_SW_CPU_CLOCK};
    TRY(syscall(SYS_perf_event_open, &event, -1, 0, -1, 0));
    reached();
}
