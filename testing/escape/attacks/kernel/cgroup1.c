/* Mounts the freezer of control groups and opens it for writing. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    /* Mounting what is not in use would change the machine. */
    if (!text_has("/proc/self/cgroup", ":freezer:")) absent("no freezer of version 1");
    int tree = new_mount("cgroup", "freezer", NULL);
    if (tree < 0) {
        take_namespaces(CLONE_NEWNS | CLONE_NEWCGROUP);
        tree = (int)TRY(new_mount("cgroup", "freezer", NULL));
    }
    open_setting(tree, "tasks");
}
