/* Makes a device node in a file system of its own, mounted with devices, and opens it. */
#include "attack.h"
#include <sys/sysmacros.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (geteuid() != 0) take_namespaces(CLONE_NEWNS);
    int tree = (int)TRY(new_mount("tmpfs", NULL, NULL));
    TRY(mknodat(tree, "kmsg", S_IFCHR | 0600, makedev(1, 11)));
    TRY(openat(tree, "kmsg", O_RDONLY | O_NONBLOCK));
    reached();
}
