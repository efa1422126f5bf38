/* Changes the mode of a file of the host's. */
#include "attack.h"

void victim(void) {
    ready("%s", secret_file("file"));
    wait_for_end();
}

void attack(int n, char **word) {
    const char *path = word[n - 1];
    TRY(chmod(path, 04755));
    ask();
}
void check(int n, char **word) {
    struct stat status;
    int there = lstat(word[n - 1], &status) == 0;
    if (!there || (status.st_mode & 07777) != 0600) reached();
    refused("the host's file is as it was");
}
