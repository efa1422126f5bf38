/* Opens the memory of the keeper. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/mem", getenv("ESCAPE_KEEPER"));
    TRY(open(path, O_RDWR));
    reached();
}
