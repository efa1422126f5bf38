/* Finds a host process's lock in /proc/locks. */
#include "attack.h"
#include <sys/file.h>

void victim(void) {
    struct stat status;
    int fd = (int)MAKE(open(secret_file("file"), O_RDWR));
    MAKE(flock(fd, LOCK_EX));
    MAKE(fstat(fd, &status));
    ready(":%lu", (unsigned long)status.st_ino);
    wait_for_end();
}
void attack(int n, char **word) {
    char needle[64];
    snprintf(needle, sizeof needle, "%s ", word[n - 1]);
    if (text_has("/proc/locks", needle)) reached();
    refused("not in the listing");
}
