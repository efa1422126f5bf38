/* Finds fvm's own places in its table of mounts. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (text_has("/proc/self/mountinfo", "/layers/") || text_has("/proc/self/mountinfo", "/vms/")) reached();
    refused("no such path in it");
}
