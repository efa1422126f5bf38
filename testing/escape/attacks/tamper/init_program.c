/* Opens the program of the first process, which is fvm's. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    TRY(open("/proc/1/exe", O_RDONLY));
    reached();
}
