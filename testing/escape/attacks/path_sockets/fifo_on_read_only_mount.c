/* Writes into a FIFO that lies on a read-only mount of the host's. */
#include "attack.h"

void victim(void) {
    char byte;
    MAKE(chdir("../shelf"));
    const char *path = own_path("fifo");
    MAKE(mkfifo(path, 0666));
    int fd = (int)MAKE(open(path, O_RDWR | O_CLOEXEC));
    MAKE(chdir("../work"));
    const char *mark = own_path("mark");
    ready("%s %s", path, mark);
    while (read(fd, &byte, 1) == 1) hit(mark);
}
void attack(int n, char **word) {
    (void)n;
    int fd = (int)TRY(open(word[0], O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    TRY(write(fd, "x", 1));
    ask();
}
void check(int n, char **word) { check_hit(word[n - 1]); }
