/* Opens core_pattern, by which the kernel runs a program as root. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_setting(AT_FDCWD, "/proc/sys/kernel/core_pattern");
}
