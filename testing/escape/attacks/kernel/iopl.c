/* Takes the machine's ports. */
#include "attack.h"

#ifndef SYS_iopl
#define SYS_iopl -1
#endif

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (syscall(SYS_iopl, 3) >= 0 || (errno != EPERM && errno != EACCES && errno != ENOSYS)) reached();
    refused_call("iopl");
}
