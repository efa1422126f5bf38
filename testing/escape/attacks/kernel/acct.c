/* Writes the accounting of all processes into a file (that is not there). */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (acct("/fvm-escape") >= 0 || (errno != EPERM && errno != EACCES && errno != ENOSYS)) reached();
    refused_call("acct");
}
