/* Writes into a file of the host's through a descriptor that was opened before the VM copied it. */
#include "attack.h"

void victim(void) {
    ready("%s", secret_file("file"));
    wait_for_end();
}

void attack(int n, char **word) {
    char again[64];
    /* Opened before the copy: it would be the host's own file that is written. */
    int fd = (int)TRY(open(word[n - 1], O_RDONLY));
    TRY(chmod(word[n - 1], 0644));
    snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
    TRY(open(again, O_WRONLY | O_TRUNC));
    ask();
}
void check(int n, char **word) {
    struct stat status;
    int there = lstat(word[n - 1], &status) == 0;
    if (!there || status.st_size != (off_t)strlen(SECRET)) reached();
    refused("the host's file is as it was");
}
