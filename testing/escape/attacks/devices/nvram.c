/* Opens the firmware's memory. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/nvram", O_RDWR);
}
