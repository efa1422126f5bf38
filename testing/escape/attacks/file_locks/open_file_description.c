/* Learns of a host process's open file description lock. */
#include "attack.h"

void victim(void) {
    const char *path = secret_file("file");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    MAKE(fcntl((int)MAKE(open(path, O_RDWR)), F_OFD_SETLK, &lock));
    ready("%s", path);
    wait_for_end();
}
void attack(int n, char **word) {
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    int fd = (int)TRY(open(word[n - 1], O_RDONLY));
    if (fcntl(fd, F_OFD_SETLK, &lock) < 0 && (errno == EAGAIN || errno == EACCES)) reached();
    refused("the file is not locked here");
}
