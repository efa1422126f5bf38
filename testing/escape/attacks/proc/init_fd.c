/* Lists the descriptors of the first process, which came from the host. */
#include "attack.h"
#include <dirent.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    DIR *dir = opendir("/proc/1/fd");
    TRY(dir ? 0 : -1);
    for (struct dirent *entry; (errno = 0, entry = readdir(dir));)
        if (entry->d_name[0] != '.') reached();
    refused("an empty listing: %s", strerror(errno));
}
