/* Makes /proc/sys writable and opens core_pattern. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    mount(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
    mount(NULL, "/proc", NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
    open_setting(AT_FDCWD, "/proc/sys/kernel/core_pattern");
}
