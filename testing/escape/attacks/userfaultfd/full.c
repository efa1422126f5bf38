/* Gets a userfaultfd that also stops the kernel at a page. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    TRY(syscall(SYS_userfaultfd, O_CLOEXEC));
    reached();
}
