/* Takes one of the machine's ports. */
#include "attack.h"

#ifndef SYS_ioperm
#define SYS_ioperm -1
#endif

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (syscall(SYS_ioperm, 0x80, 1, 1) >= 0 || (errno != EPERM && errno != EACCES && errno != ENOSYS)) reached();
    refused_call("ioperm");
}
