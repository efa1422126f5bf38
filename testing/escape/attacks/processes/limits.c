/* Changes the limits of a host process. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

#include <sys/resource.h>

void attack(int n, char **word) {
    struct rlimit limit;
    TRY(prlimit(atoi(word[n - 1]), RLIMIT_NOFILE, NULL, &limit));
    TRY(prlimit(atoi(word[n - 1]), RLIMIT_NOFILE, &limit, NULL));
    reached();
}
