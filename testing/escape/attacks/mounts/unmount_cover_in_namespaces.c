/* Unmounts the cover of fvm's state in namespaces of its own. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    take_namespaces(CLONE_NEWNS);
    umount2(getenv("ESCAPE_HOME"), MNT_DETACH);
    look_for_state("");
}
