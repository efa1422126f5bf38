/* Opens the setting of the emergency commands. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_setting(AT_FDCWD, "/proc/sys/kernel/sysrq");
}
