/* Makes a ring by a 32-bit system call. */
#include "attack.h"
#include <linux/io_uring.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
#ifdef __x86_64__
    struct io_uring_params *parameters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    TRY(parameters == MAP_FAILED ? -1 : 0);
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(425L), "b"(4L), "c"(parameters) : "memory", "r8", "r9", "r10", "r11");
    if (result >= 0) reached();
    errno = (int)-result;
    refused_call("int80_io_uring_setup");
#else
    absent("no 32-bit calls");
#endif
}
