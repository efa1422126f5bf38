/* Loads another kernel from a file (with flags that there are not). */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (syscall(SYS_kexec_file_load, -1, -1, 0, NULL, 0x8000UL) >= 0 || (errno != EPERM && errno != EACCES && errno != ENOSYS)) reached();
    refused_call("kexec_file_load");
}
