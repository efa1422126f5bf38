/* Moves the cover of fvm's state away. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char place[] = "./fvm-escape-XXXXXX";
    TRY(mkdtemp(place) ? 0 : -1);
    mount(getenv("ESCAPE_HOME"), place, NULL, MS_MOVE, NULL);
    rmdir(place);
    look_for_state("");
}
