/* Changes the times of the host's /dev/zero. A node of the VM's own that is called so is not the host's. */
#include "attack.h"

void victim(void) {
    struct stat status;
    MAKE(stat("/dev/zero", &status));
    ready("%llu %llu", (unsigned long long)status.st_dev, (unsigned long long)status.st_ino);
    wait_for_end();
}

void attack(int n, char **word) {
    struct stat status;
    TRY(stat("/dev/zero", &status));
    struct timespec times[2] = {status.st_atim, status.st_mtim};
    TRY(utimensat(AT_FDCWD, "/dev/zero", times, 0));
    if (status.st_dev != strtoull(word[n - 2], NULL, 10) || status.st_ino != strtoull(word[n - 1], NULL, 10))
        refused("/dev/zero is the VM's own");
    reached();
}
