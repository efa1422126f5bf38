/* Signals the first process by the number that the host gives it. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    int init = atoi(getenv("ESCAPE_INIT"));
    if (init < 2) broken("ESCAPE_INIT");
    TRY(kill(init, SIGCONT));
    reached();
}
