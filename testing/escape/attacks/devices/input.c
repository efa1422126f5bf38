/* Opens the device that forges input. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/uinput", O_WRONLY);
}
