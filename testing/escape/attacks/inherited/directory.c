/* Climbs out of a directory that it got as standard input, and finds fvm's state. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "../../../../../../../../../..%s/vms", getenv("ESCAPE_HOME"));
    TRY(openat(0, path, O_RDONLY | O_DIRECTORY));
    reached();
}
