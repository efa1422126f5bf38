/* Removes a shared memory segment. */
#include "sysv.h"

void attack(int n, char **word) {
    (void)n;
    TRY(shmctl(atoi(word[1]), IPC_RMID, NULL));
    reached();
}
