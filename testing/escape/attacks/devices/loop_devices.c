/* Opens the control of loop devices. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/loop-control", O_RDWR);
}
