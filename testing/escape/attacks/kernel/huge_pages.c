/* Opens a setting of memory in /sys. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_setting(AT_FDCWD, "/sys/kernel/mm/transparent_hugepage/enabled");
}
