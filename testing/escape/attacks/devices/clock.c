/* Opens the hardware clock. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/rtc0", O_RDONLY);
}
