/* Opens a graphics card. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/dri/card0", O_RDWR);
}
