/* Writes the clock's estimated error (as it was). */
#include "attack.h"
#include <sys/timex.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct timex clock = {0};
    TRY(adjtimex(&clock) < 0 ? -1 : 0);
    clock.modes = ADJ_ESTERROR;
    TRY(adjtimex(&clock) < 0 ? -1 : 0);
    reached();
}
