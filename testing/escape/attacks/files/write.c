/* Writes into a file of the host's. */
#include "attack.h"

void victim(void) {
    ready("%s", secret_file("file"));
    wait_for_end();
}

void attack(int n, char **word) {
    const char *path = word[n - 1];
    int fd = (int)TRY(open(path, O_WRONLY | O_APPEND));
    TRY(write(fd, "more", 4));
    ask();
}
void check(int n, char **word) {
    struct stat status;
    int there = lstat(word[n - 1], &status) == 0;
    if (!there || status.st_size != (off_t)strlen(SECRET)) reached();
    refused("the host's file is as it was");
}
