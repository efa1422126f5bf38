/* Changes the times of a file of the host's. */
#include "attack.h"

void victim(void) {
    ready("%s", secret_file("file"));
    wait_for_end();
}

void attack(int n, char **word) {
    const char *path = word[n - 1];
    struct timespec times[2] = {{4711, 0}, {4711, 0}};
    TRY(utimensat(AT_FDCWD, path, times, 0));
    ask();
}
void check(int n, char **word) {
    struct stat status;
    int there = lstat(word[n - 1], &status) == 0;
    if (!there || status.st_mtime == 4711) reached();
    refused("the host's file is as it was");
}
