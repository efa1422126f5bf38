/* Mounts devtmpfs. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    try_to_mount("devtmpfs", NULL, NULL);
}
