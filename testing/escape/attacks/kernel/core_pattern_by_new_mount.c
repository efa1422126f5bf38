/* Mounts /proc anew and opens core_pattern there. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (geteuid() != 0) take_namespaces(CLONE_NEWNS | CLONE_NEWPID);
    int tree = (int)TRY(new_mount("proc", NULL, NULL));
    open_setting(tree, "sys/kernel/core_pattern");
}
