/* Gets a userfaultfd for its own faults. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    TRY(syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */));
    reached();
}
