/* Makes /sys writable and opens a setting there. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    mount(NULL, "/sys", NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
    open_setting(AT_FDCWD, "/sys/kernel/mm/transparent_hugepage/enabled");
}
