/* Opens core_pattern in a /proc of namespaces of its own. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    take_namespaces(CLONE_NEWNS | CLONE_NEWPID);
    /* The new process namespace begins with a child. */
    if (fork() == 0) {
        int tree = (int)TRY(new_mount("proc", NULL, NULL));
        open_setting(tree, "sys/kernel/core_pattern");
    }
    wait(NULL);
    exit(0);
}
