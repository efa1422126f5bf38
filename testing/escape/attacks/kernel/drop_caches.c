/* Opens the setting that empties the caches. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_setting(AT_FDCWD, "/proc/sys/vm/drop_caches");
}
