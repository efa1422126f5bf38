/* Mounts /proc anew and finds a host process there. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}
void attack(int n, char **word) {
    char path[64];
    int context = (int)TRY(syscall(SYS_fsopen, "proc", 0));
    TRY(syscall(SYS_fsconfig, context, 6, NULL, NULL, 0));
    int tree = (int)TRY(syscall(SYS_fsmount, context, 0, 0));
    snprintf(path, sizeof path, "%s/comm", word[n - 1]);
    int fd = (int)TRY(openat(tree, path, O_RDONLY));
    char name[32] = "";
    TRY(read(fd, name, sizeof name - 1));
    if (!strcmp(name, "proc.new_mount\n")) reached();
    refused("another process");
}
