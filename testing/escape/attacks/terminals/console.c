/* Opens the machine's console. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    if (fd < 0 && errno == EIO) absent("no console");
    TRY(fd);
    reached();
}
