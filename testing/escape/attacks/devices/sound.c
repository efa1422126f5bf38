/* Opens a sound device. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/snd/timer", O_RDONLY);
}
