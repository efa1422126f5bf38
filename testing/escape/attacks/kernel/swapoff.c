/* Stops swapping to a file (that is not there). */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (syscall(SYS_swapoff, "/fvm-escape") >= 0 || (errno != EPERM && errno != EACCES && errno != ENOSYS)) reached();
    refused_call("swapoff");
}
