/* Learns of a host process's record lock (fcntl) on a file. */
#include "attack.h"

void victim(void) {
    const char *path = secret_file("file");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    MAKE(fcntl((int)MAKE(open(path, O_RDWR)), F_SETLK, &lock));
    ready("%s", path);
    wait_for_end();
}
void attack(int n, char **word) {
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    int fd = (int)TRY(open(word[n - 1], O_RDONLY));
    TRY(fcntl(fd, F_GETLK, &lock));
    if (lock.l_type != F_UNLCK) reached();
    refused("the file is not locked here");
}
