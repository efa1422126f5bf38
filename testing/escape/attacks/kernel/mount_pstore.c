/* Mounts pstore. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    try_to_mount("pstore", NULL, NULL);
}
