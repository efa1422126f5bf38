/* Opens the device of file systems in programs. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/fuse", O_RDWR);
}
