/* Moves the memory of a host process. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    unsigned long nodes = 1;
    TRY(syscall(SYS_migrate_pages, atoi(word[n - 1]), 8, &nodes, &nodes));
    reached();
}
