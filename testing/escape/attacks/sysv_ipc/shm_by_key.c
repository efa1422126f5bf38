/* Attaches a shared memory segment by its key. */
#include "sysv.h"

void attack(int n, char **word) {
    (void)n;
    int id = (int)TRY(shmget(atoi(word[0]), 0, 0));
    char *shared = shmat(id, NULL, SHM_RDONLY);
    TRY(shared == (void *)-1 ? -1 : 0);
    if (!strcmp(shared, SECRET)) reached();
    refused("another content");
}
