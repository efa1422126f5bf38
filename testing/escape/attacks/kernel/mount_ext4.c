/* Mounts ext4, whose parser trusts the disk. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    try_to_mount("ext4", "source", "/dev/null");
}
