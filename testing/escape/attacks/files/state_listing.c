/* Lists fvm's state. */
#include "attack.h"

void attack(int n, char **word) {
    char path[PATH_MAX];
    (void)n;
    (void)word;
    snprintf(path, sizeof path, "%s/vms", getenv("ESCAPE_HOME"));
    TRY(open(path, O_RDONLY | O_DIRECTORY));
    reached();
}
