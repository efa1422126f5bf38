/* Gets a userfaultfd from its device. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    int fd = (int)TRY(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
    TRY(ioctl(fd, 0xAA00, O_CLOEXEC));
    reached();
}
