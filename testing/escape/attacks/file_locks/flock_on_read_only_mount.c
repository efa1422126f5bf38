/* Learns of a host process's flock on a file of a read-only mount. */
#include "attack.h"
#include <sys/file.h>

void victim(void) {
    MAKE(chdir("../shelf"));
    const char *path = secret_file("file");
    MAKE(flock((int)MAKE(open(path, O_RDONLY)), LOCK_EX));
    ready("%s", path);
    wait_for_end();
}
void attack(int n, char **word) {
    int fd = (int)TRY(open(word[n - 1], O_RDONLY));
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) reached();
    refused("the file is not locked here");
}
