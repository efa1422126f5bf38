/* Changes the mode of a file that it got as standard input. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct stat status;
    TRY(fstat(0, &status));
    if (!S_ISREG(status.st_mode)) refused("it is no file");
    TRY(fchmod(0, status.st_mode & 07777));
    reached();
}
