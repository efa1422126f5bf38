/* Opens the hypervisor's device. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/kvm", O_RDWR);
}
