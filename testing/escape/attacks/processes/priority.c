/* Changes the priority of a host process. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

#include <sys/resource.h>

void attack(int n, char **word) {
    TRY(setpriority(PRIO_PROCESS, (id_t)atoi(word[n - 1]), 0));
    reached();
}
