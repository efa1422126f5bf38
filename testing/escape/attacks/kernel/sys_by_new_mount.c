/* Mounts /sys anew and opens a setting there. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (geteuid() != 0) take_namespaces(CLONE_NEWNS | CLONE_NEWNET);
    int tree = (int)TRY(new_mount("sysfs", NULL, NULL));
    open_setting(tree, "kernel/mm/transparent_hugepage/enabled");
}
