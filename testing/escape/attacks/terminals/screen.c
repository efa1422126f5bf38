/* Opens the screen of a virtual console. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    int fd = open("/dev/vcs", O_RDONLY);
    if (fd < 0 && errno == ENXIO) absent("no screen");
    TRY(fd);
    reached();
}
