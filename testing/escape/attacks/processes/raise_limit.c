/* Raises a hard limit that the host set. */
#include "attack.h"
#include <linux/capability.h>
#include <sys/resource.h>

void victim(void) {
    if (prctl(PR_CAPBSET_READ, CAP_SYS_RESOURCE) == 0) {
        puts("absent: the host's own root may not");
        return;
    }
    ready("x");
    wait_for_end();
}

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct rlimit limit;
    TRY(getrlimit(RLIMIT_RTPRIO, &limit));
    if (limit.rlim_max == RLIM_INFINITY) absent("no such limit is set");
    limit.rlim_max++;
    TRY(setrlimit(RLIMIT_RTPRIO, &limit));
    reached();
}
