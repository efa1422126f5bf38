/* Makes a ring by a call of the x32 kind, which another filter would have to see. */
#include "attack.h"
#include <linux/io_uring.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct io_uring_params parameters = {0};
    TRY(syscall(0x40000000L | SYS_io_uring_setup, 4, &parameters));
    reached();
}
