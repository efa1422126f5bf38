/* Makes a read-only shared mapping of a file writable. */
#include "attack.h"

void victim(void) {
    const char *path = own_path("file"), *mark = own_path("mark");
    int fd = (int)MAKE(open(path, O_CREAT | O_RDWR, 0666));
    MAKE(ftruncate(fd, 4096));
    volatile char *shared = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    ready("%s %s", path, mark);
    while (!*shared) usleep(5000);
    hit(mark);
    wait_for_end();
}
void attack(int n, char **word) {
    (void)n;
    /* The mapping is made before the file is copied up; then its descriptor is opened anew for writing. */
    char again[64];
    int fd = (int)TRY(open(word[0], O_RDONLY));
    char *early = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    TRY(early == MAP_FAILED ? -1 : 0);
    if (mprotect(early, 4096, PROT_READ | PROT_WRITE) == 0) *early = 1;
    snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
    fd = (int)TRY(open(again, O_RDWR));
    char *late = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    TRY(late == MAP_FAILED ? -1 : 0);
    *late = 1;
    ask();
}
void check(int n, char **word) { check_hit(word[n - 1]); }
