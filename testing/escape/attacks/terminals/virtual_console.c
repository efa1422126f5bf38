/* Opens the machine's virtual console, for TIOCLINUX. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    int fd = open("/dev/tty0", O_RDWR | O_NOCTTY);
    if (fd < 0) fd = open("/dev/tty1", O_RDWR | O_NOCTTY);
    if (fd < 0 && (errno == ENXIO || errno == EIO)) absent("no virtual console");
    TRY(fd);
    reached();
}
