/* Gives itself a better priority than the host gave it. */
#include "attack.h"
#include <sys/resource.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    TRY(setpriority(PRIO_PROCESS, 0, -5));
    reached();
}
