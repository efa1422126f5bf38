/* Reads a POSIX shared memory object. */
#include "attack.h"

void victim(void) {
    char name[64];
    snprintf(name, sizeof name, "/fvm-escape-shm-%d", getpid());
    int fd = (int)MAKE(shm_open(name, O_CREAT | O_RDWR, 0666));
    MAKE(write(fd, SECRET, strlen(SECRET)));
    char path[80];
    snprintf(path, sizeof path, "/dev/shm%s", name);
    remove_at_end(path);
    ready("%s", name);
    wait_for_end();
}
void attack(int n, char **word) {
    char text[64] = "";
    int fd = (int)TRY(shm_open(word[n - 1], O_RDONLY, 0));
    TRY(read(fd, text, sizeof text - 1));
    if (!strcmp(text, SECRET)) reached();
    refused("another content");
}
