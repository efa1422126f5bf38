/* Opens the path of the program that the kernel runs for new devices. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_setting(AT_FDCWD, "/proc/sys/kernel/hotplug");
}
