/* Finds a segment in /proc/sysvipc/shm. */
#include "sysv.h"

void attack(int n, char **word) {
    char needle[32];
    (void)n;
    snprintf(needle, sizeof needle, "%s ", word[0]);
    if (text_has("/proc/sysvipc/shm", needle)) reached();
    refused("not in the listing");
}
