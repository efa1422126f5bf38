/* Renames a file of the host's. */
#include "attack.h"

void victim(void) {
    ready("%s", secret_file("file"));
    wait_for_end();
}

void attack(int n, char **word) {
    const char *path = word[n - 1];
    char other[PATH_MAX];
    snprintf(other, sizeof other, "%s-moved", path);
    TRY(rename(path, other));
    ask();
}
void check(int n, char **word) {
    struct stat status;
    int there = lstat(word[n - 1], &status) == 0;
    if (!there) reached();
    refused("the host's file is as it was");
}
