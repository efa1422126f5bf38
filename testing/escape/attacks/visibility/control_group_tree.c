/* Finds the host's control groups in /sys. */
#include "attack.h"
#include <dirent.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    DIR *dir = opendir("/sys/fs/cgroup");
    if (!dir && errno == ENOENT) absent("no control groups");
    TRY(dir ? 0 : -1);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.') reached();
    refused("an empty directory");
}
