/* Makes a file in fvm's state. */
#include "attack.h"

void attack(int n, char **word) {
    char path[PATH_MAX];
    (void)n;
    (void)word;
    snprintf(path, sizeof path, "%s/fvm-escape", getenv("ESCAPE_HOME"));
    TRY(open(path, O_CREAT | O_WRONLY, 0600));
    unlink(path);
    reached();
}
