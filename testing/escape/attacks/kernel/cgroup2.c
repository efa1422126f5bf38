/* Mounts the tree of control groups and opens it for writing. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    int tree = new_mount("cgroup2", NULL, NULL);
    if (tree < 0) {
        take_namespaces(CLONE_NEWNS | CLONE_NEWCGROUP);
        tree = (int)TRY(new_mount("cgroup2", NULL, NULL));
    }
    open_setting(tree, "cgroup.procs");
}
