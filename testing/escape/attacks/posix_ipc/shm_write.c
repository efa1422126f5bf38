/* Writes into a POSIX shared memory object that a host process maps. */
#include "attack.h"

void victim(void) {
    char name[64];
    snprintf(name, sizeof name, "/fvm-escape-map-%d", getpid());
    int fd = (int)MAKE(shm_open(name, O_CREAT | O_RDWR, 0666));
    MAKE(ftruncate(fd, 4096));
    volatile char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    const char *mark = own_path("mark");
    char path[80];
    snprintf(path, sizeof path, "/dev/shm%s", name);
    remove_at_end(path);
    ready("%s %s", name, mark);
    while (!*shared) usleep(5000);
    hit(mark);
    wait_for_end();
}
void attack(int n, char **word) {
    (void)n;
    int fd = (int)TRY(shm_open(word[0], O_RDWR, 0));
    char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    TRY(shared == MAP_FAILED ? -1 : 0);
    *shared = 1;
    ask();
}
void check(int n, char **word) { check_hit(word[n - 1]); }
