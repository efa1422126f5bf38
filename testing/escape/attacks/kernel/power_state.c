/* Opens the setting of the machine's sleep. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_setting(AT_FDCWD, "/sys/power/state");
}
