/* Swaps to a file (that is not there). */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (syscall(SYS_swapon, "/fvm-escape", 0) >= 0 || (errno != EPERM && errno != EACCES && errno != ENOSYS)) reached();
    refused_call("swapon");
}
