/* Loads another kernel (with flags that there are not). */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (syscall(SYS_kexec_load, 0, 0, NULL, 0x8000UL) >= 0 || (errno != EPERM && errno != EACCES && errno != ENOSYS)) reached();
    refused_call("kexec_load");
}
