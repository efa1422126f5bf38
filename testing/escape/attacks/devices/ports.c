/* Opens the machine's ports. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/port", O_RDONLY);
}
