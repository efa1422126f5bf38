/* Opens the device of network tunnels. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_device("/dev/net/tun", O_RDWR);
}
