/* Allows its control group devices (which it may use already). */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (!text_has("/proc/self/cgroup", ":devices:")) absent("no device controller of version 1");
    int tree = new_mount("cgroup", "devices", NULL);
    if (tree < 0) {
        take_namespaces(CLONE_NEWNS | CLONE_NEWCGROUP);
        tree = (int)TRY(new_mount("cgroup", "devices", NULL));
    }
    open_setting(tree, "devices.allow");
}
