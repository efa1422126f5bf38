/* Opens the kernel's log for writing. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/kmsg", O_WRONLY);
}
