/* Opens the working directory of the first process, which came from the host. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    TRY(open("/proc/1/cwd/.", O_RDONLY));
    reached();
}
