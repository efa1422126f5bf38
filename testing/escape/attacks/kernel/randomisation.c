/* Opens the setting of address randomisation. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_setting(AT_FDCWD, "/proc/sys/kernel/randomize_va_space");
}
