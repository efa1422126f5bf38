/* Allows its control group a device (/dev/null, which it may use already). */
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
    int fd = (int)TRY(openat(tree, "devices.allow", O_WRONLY));
    TRY(write(fd, "c 1:3 rwm", 9));
    reached();
}
