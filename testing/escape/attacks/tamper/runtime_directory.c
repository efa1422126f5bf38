/* Lists the directory of the control sockets. */
#include "attack.h"
#include <dirent.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", getenv("ESCAPE_SOCKET"));
    *strrchr(path, '/') = 0;
    DIR *dir = opendir(path);
    TRY(dir ? 0 : -1);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strstr(entry->d_name, ".sock")) reached();
    refused("an empty directory");
}
