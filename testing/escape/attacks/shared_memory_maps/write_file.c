/* Writes through a shared mapping of a file that a host process maps. */
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
    int fd = (int)TRY(open(word[0], O_RDWR));
    char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    TRY(shared == MAP_FAILED ? -1 : 0);
    *shared = 1;
    msync(shared, 4096, MS_SYNC);
    ask();
}
void check(int n, char **word) { check_hit(word[n - 1]); }
