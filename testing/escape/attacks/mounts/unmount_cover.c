/* Unmounts the cover of fvm's state. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    umount2(getenv("ESCAPE_HOME"), MNT_DETACH);
    umount2(getenv("ESCAPE_HOME"), 0);
    look_for_state("");
}
