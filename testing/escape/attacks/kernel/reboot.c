/* Sets what Ctrl-Alt-Del does (as it was). */
#include "attack.h"
#include <sys/reboot.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char now = '0';
    int fd = open("/proc/sys/kernel/ctrl-alt-del", O_RDONLY);
    if (fd >= 0 && read(fd, &now, 1) < 0) now = '0';
    TRY(reboot(now == '0' ? RB_DISABLE_CAD : RB_ENABLE_CAD));
    reached();
}
