/* Finds a host's object in the listing of /dev/shm. */
#include "attack.h"
#include <dirent.h>

void victim(void) {
    char path[64];
    snprintf(path, sizeof path, "/dev/shm/fvm-escape-listed-%d", getpid());
    write_file(path, SECRET);
    remove_at_end(path);
    ready("%s", path + strlen("/dev/shm/"));
    wait_for_end();
}
void attack(int n, char **word) {
    DIR *dir = opendir("/dev/shm");
    TRY(dir ? 0 : -1);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (!strcmp(entry->d_name, word[n - 1])) reached();
    refused("not in the listing");
}
