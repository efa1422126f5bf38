/* Opens the path of the program that the kernel runs for device events. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_setting(AT_FDCWD, "/sys/kernel/uevent_helper");
}
