/* Changes the mode of the host's /dev/null. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct stat status;
    TRY(stat("/dev/null", &status));
    TRY(chmod("/dev/null", status.st_mode & 07777));
    reached();
}
