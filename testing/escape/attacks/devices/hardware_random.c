/* Opens the hardware's random numbers. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/hwrng", O_RDONLY);
}
