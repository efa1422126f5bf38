/* Mounts configfs. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    try_to_mount("configfs", NULL, NULL);
}
