/* Leaves its tree through the root directory of the first process. */
#include "attack.h"

void attack(int n, char **word) {
    char path[PATH_MAX];
    (void)n;
    (void)word;
    /* fvm's state is covered in a VM: who sees it has left the VM. */
    snprintf(path, sizeof path, "/proc/1/root%s/vms", getenv("ESCAPE_HOME"));
    TRY(open(path, O_RDONLY | O_DIRECTORY));
    reached();
}
