/* Makes a ring with a kernel thread of its own. */
#include "attack.h"
#include <linux/io_uring.h>

void attack(int n, char **word) {
    struct io_uring_params parameters = {.flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 10};
    (void)n;
    (void)word;
    TRY(syscall(SYS_io_uring_setup, 4, &parameters));
    reached();
}
