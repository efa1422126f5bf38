/* Makes a ring, whose operations no filter of system calls sees. */
#include "attack.h"
#include <linux/io_uring.h>

void attack(int n, char **word) {
    struct io_uring_params parameters = {0};
    (void)n;
    (void)word;
    TRY(syscall(SYS_io_uring_setup, 4, &parameters));
    reached();
}
