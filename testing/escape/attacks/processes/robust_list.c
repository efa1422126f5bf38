/* Reads the list of robust futexes of a host process. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    void *head;
    size_t length;
    TRY(syscall(SYS_get_robust_list, atoi(word[n - 1]), &head, &length));
    reached();
}
