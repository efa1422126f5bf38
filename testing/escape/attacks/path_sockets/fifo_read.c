/* Reads from a FIFO that a host process has written to. */
#include "attack.h"

void victim(void) {
    const char *path = own_path("fifo");
    MAKE(mkfifo(path, 0666));
    int fd = (int)MAKE(open(path, O_RDWR | O_CLOEXEC));
    MAKE(write(fd, SECRET, strlen(SECRET)));
    ready("%s", path);
    wait_for_end();
}
void attack(int n, char **word) {
    char text[64] = "";
    int fd = (int)TRY(open(word[n - 1], O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    TRY(read(fd, text, sizeof text - 1));
    if (!strcmp(text, SECRET)) reached();
    refused("the FIFO is empty");
}
