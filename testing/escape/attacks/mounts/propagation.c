/* Mounts where the host sees it. */
#include "attack.h"

void victim(void) {
    const char *path = own_path("dir");
    MAKE(mkdir(path, 0777));
    ready("%s", path);
    wait_for_end();
}
void attack(int n, char **word) {
    if (geteuid() != 0) take_namespaces(CLONE_NEWNS);
    TRY(mount("none", word[n - 1], "tmpfs", 0, NULL));
    ask();
}
void check(int n, char **word) {
    if (umount2(word[n - 1], MNT_DETACH) == 0) reached();
    refused("nothing is mounted on the host");
}
