/* Finds the host's name of its control group. */
#include "attack.h"

void attack(int n, char **word) {
    char line[4096];
    (void)n;
    (void)word;
    FILE *groups = fopen("/proc/self/cgroup", "r");
    TRY(groups ? 0 : -1);
    while (fgets(line, sizeof line, groups)) {
        char *path = strchr(line, ':') ? strchr(strchr(line, ':') + 1, ':') : NULL;
        if (path && strcmp(path, ":/\n")) reached();
    }
    refused("it is in the root, as far as it sees");
}
