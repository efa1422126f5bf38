/* Enters the mount namespace of a host process. */
#include "attack.h"

void victim(void) {
    ready("/proc/%d/ns/mnt", getpid());
    wait_for_end();
}
void attack(int n, char **word) {
    TRY(setns((int)TRY(open(word[n - 1], O_RDONLY)), CLONE_NEWNS));
    reached();
}
