/* Raises a semaphore by its key. */
#include "sysv.h"

void attack(int n, char **word) {
    struct sembuf up = {0, 1, IPC_NOWAIT};
    (void)n;
    int id = (int)TRY(semget(atoi(word[0]), 0, 0));
    TRY(semop(id, &up, 1));
    reached();
}
