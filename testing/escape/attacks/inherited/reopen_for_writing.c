/* Opens a file that it got as standard input again, for writing. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct stat mine, host;
    TRY(fstat(0, &host));
    if (!S_ISREG(host.st_mode)) refused("it is no file");
    TRY(open("/proc/self/fd/0", O_RDWR));
    /* Its own copy would be another file. */
    int fd = (int)TRY(open("/proc/self/fd/0", O_WRONLY | O_APPEND));
    TRY(fstat(fd, &mine));
    if (mine.st_dev == host.st_dev && mine.st_ino == host.st_ino) reached();
    refused("another file");
}
