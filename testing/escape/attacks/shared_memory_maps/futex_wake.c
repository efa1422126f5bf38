/* Wakes a host process that waits for a futex in a file: a read-only mapping of the same file is enough. */
#include "attack.h"
#include <linux/futex.h>

void victim(void) {
    const char *path = own_path("file"), *mark = own_path("mark");
    int fd = (int)MAKE(open(path, O_CREAT | O_RDWR, 0666));
    MAKE(ftruncate(fd, 4096));
    uint32_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ready("%s %s", path, mark);
    while (syscall(SYS_futex, shared, FUTEX_WAIT, 0, NULL, NULL, 0) == -1) {}
    hit(mark);
    wait_for_end();
}
void attack(int n, char **word) {
    (void)n;
    int fd = (int)TRY(open(word[0], O_RDONLY));
    uint32_t *shared = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    TRY(shared == MAP_FAILED ? -1 : 0);
    /* To be mapped at all: the key of the futex is the page's file. */
    (void)*(volatile uint32_t *)shared;
    if (TRY(syscall(SYS_futex, shared, FUTEX_WAKE, 1, NULL, NULL, 0)) < 1) refused("nobody waits here");
    ask();
}
void check(int n, char **word) { check_hit(word[n - 1]); }
