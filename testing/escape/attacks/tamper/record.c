/* Opens the record of a VM for writing. */
#include "attack.h"
#include <glob.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char pattern[PATH_MAX];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/vms/*/vm.json", getenv("ESCAPE_HOME"));
    if (glob(pattern, 0, NULL, &found) != 0) refused("no record to be found");
    TRY(open(found.gl_pathv[0], O_WRONLY | O_APPEND));
    reached();
}
