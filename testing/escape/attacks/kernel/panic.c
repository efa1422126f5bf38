/* Opens the setting of what a panic does. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_setting(AT_FDCWD, "/proc/sys/kernel/panic");
}
