/* Writes the clock's estimated error (as it was) by the newer call. */
#include "attack.h"
#include <sys/timex.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct timex clock = {0};
    TRY(clock_adjtime(CLOCK_REALTIME, &clock) < 0 ? -1 : 0);
    clock.modes = ADJ_ESTERROR;
    TRY(clock_adjtime(CLOCK_REALTIME, &clock) < 0 ? -1 : 0);
    reached();
}
