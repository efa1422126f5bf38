/* Makes a file of the host's in a directory that it got as standard input. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    TRY(openat(0, "fvm-escape-made", O_CREAT | O_RDWR, 0600));
    ask();
}

void check(int n, char **word) {
    (void)n;
    (void)word;
    if (unlink("input/fvm-escape-made") == 0) reached();
    refused("not on the host");
}
