/* Finds a disk in /dev and opens it. */
#include "attack.h"
#include <dirent.h>

void attack(int n, char **word) {
    struct stat status;
    int disks = 0;
    (void)n;
    (void)word;
    DIR *dir = opendir("/dev");
    TRY(dir ? 0 : -1);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (fstatat(dirfd(dir), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISBLK(status.st_mode)) continue;
        disks++;
        if (openat(dirfd(dir), entry->d_name, O_RDONLY) >= 0) reached();
    }
    refused("%d disks, none opens", disks);
}
