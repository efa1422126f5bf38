/* Writes into a FIFO that a host process reads. */
#include "attack.h"

void victim(void) {
    char byte;
    const char *path = own_path("fifo");
    MAKE(mkfifo(path, 0666));
    int fd = (int)MAKE(open(path, O_RDWR | O_CLOEXEC));
    ready("%s", path);
    while (read(fd, &byte, 1) == 1) hit(path);
}
void attack(int n, char **word) {
    int fd = (int)TRY(open(word[n - 1], O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    TRY(write(fd, "x", 1));
    ask();
}
void check(int n, char **word) { check_hit(word[n - 1]); }
