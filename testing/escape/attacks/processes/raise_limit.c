/* Raises a hard limit that the host set. */
#include "attack.h"
#include <sys/resource.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct rlimit limit;
    TRY(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_max = limit.rlim_cur = limit.rlim_max + 1;
    TRY(setrlimit(RLIMIT_NOFILE, &limit));
    reached();
}
