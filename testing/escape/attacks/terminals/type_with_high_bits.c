/* Types into its own terminal with TIOCSTI whose unused upper bits are set, which a filter could miss. */
#include "attack.h"
#include <sys/ioctl.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    setsid();
    int master = (int)TRY(posix_openpt(O_RDWR | O_NOCTTY));
    TRY(grantpt(master));
    TRY(unlockpt(master));
    int slave = (int)TRY(open(ptsname(master), O_RDWR));
    ioctl(slave, TIOCSCTTY, 0);
    TRY(syscall(SYS_ioctl, slave, TIOCSTI | 0x100000000UL, "x"));
    reached();
}
