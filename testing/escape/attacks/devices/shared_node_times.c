/* Changes the times of the host's /dev/zero. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct stat status;
    TRY(stat("/dev/zero", &status));
    struct timespec times[2] = {status.st_atim, status.st_mtim};
    TRY(utimensat(AT_FDCWD, "/dev/zero", times, 0));
    reached();
}
