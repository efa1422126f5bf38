/* Changes the mode of the host's /dev/null. A node of the VM's own that is called so is not the host's. */
#include "attack.h"

void victim(void) {
    struct stat status;
    MAKE(stat("/dev/null", &status));
    ready("%llu %llu", (unsigned long long)status.st_dev, (unsigned long long)status.st_ino);
    wait_for_end();
}

void attack(int n, char **word) {
    struct stat status;
    TRY(stat("/dev/null", &status));
    TRY(chmod("/dev/null", status.st_mode & 07777));
    if (status.st_dev != strtoull(word[n - 2], NULL, 10) || status.st_ino != strtoull(word[n - 1], NULL, 10))
        refused("/dev/null is the VM's own");
    reached();
}
