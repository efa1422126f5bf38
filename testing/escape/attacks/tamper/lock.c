/* Takes the lock of a VM, by which fvm knows what runs. */
#include "attack.h"
#include <glob.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char pattern[PATH_MAX];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/vms/*/lock", getenv("ESCAPE_HOME"));
    if (glob(pattern, 0, NULL, &found) != 0) refused("no lock to be found");
    TRY(open(found.gl_pathv[0], O_RDWR));
    reached();
}
