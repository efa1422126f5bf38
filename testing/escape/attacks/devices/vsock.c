/* Opens the device of virtual sockets. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/vsock", O_RDWR);
}
