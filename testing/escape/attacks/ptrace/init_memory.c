/* Opens the memory of the first process for writing. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    TRY(open("/proc/1/mem", O_RDWR));
    reached();
}
