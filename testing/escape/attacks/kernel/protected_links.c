/* Opens a setting of file systems. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_setting(AT_FDCWD, "/proc/sys/fs/protected_hardlinks");
}
