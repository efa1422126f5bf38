/* Signals the keeper of its own VM. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    TRY(kill(atoi(getenv("ESCAPE_KEEPER")), SIGCONT));
    reached();
}
