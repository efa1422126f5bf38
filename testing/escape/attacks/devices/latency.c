/* Opens the setting of the processors' sleep. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/cpu_dma_latency", O_WRONLY);
}
