/* Opens the setting of who serves interrupts. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_setting(AT_FDCWD, "/proc/irq/default_smp_affinity");
}
