/* Opens the user namespace that owns its mount namespace, when that is not its own. */
#include "attack.h"
#include <linux/nsfs.h>

void attack(int n, char **word) {
    struct stat owner, own;
    (void)n;
    (void)word;
    int fd = (int)TRY(ioctl((int)TRY(open("/proc/self/ns/cgroup", O_RDONLY)), NS_GET_USERNS));
    TRY(fstat(fd, &owner));
    TRY(stat("/proc/self/ns/user", &own));
    if (owner.st_ino != own.st_ino || own.st_ino == 0xEFFFFFFDU) reached();
    refused("it is its own");
}
