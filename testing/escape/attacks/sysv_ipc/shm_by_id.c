/* Attaches a shared memory segment by its id. */
#include "sysv.h"

void attack(int n, char **word) {
    (void)n;
    char *shared = shmat(atoi(word[1]), NULL, SHM_RDONLY);
    TRY(shared == (void *)-1 ? -1 : 0);
    if (!strcmp(shared, SECRET)) reached();
    refused("another content");
}
