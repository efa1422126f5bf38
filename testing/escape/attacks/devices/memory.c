/* Opens the machine's memory. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/mem", O_RDONLY);
}
