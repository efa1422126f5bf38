/* Sets a flag of a file of the host's with an ioctl. */
#include "attack.h"
#include <linux/fs.h>

void victim(void) {
    ready("%s", secret_file("file"));
    wait_for_end();
}

void attack(int n, char **word) {
    int flags = 0;
    int fd = (int)TRY(open(word[n - 1], O_RDONLY));
    TRY(ioctl(fd, FS_IOC_GETFLAGS, &flags));
    flags |= FS_NODUMP_FL;
    TRY(ioctl(fd, FS_IOC_SETFLAGS, &flags));
    ask();
}
void check(int n, char **word) {
    int flags = 0;
    int fd = (int)MAKE(open(word[n - 1], O_RDONLY));
    MAKE(ioctl(fd, FS_IOC_GETFLAGS, &flags));
    if (flags & FS_NODUMP_FL) reached();
    refused("the host's file is as it was");
}
