/* Puts a link in the place of a directory of the host's and writes through it. */
#include "attack.h"

void victim(void) {
    const char *path = own_path("dir"), *other = own_path("other");
    MAKE(mkdir(path, 0777));
    MAKE(mkdir(other, 0777));
    ready("%s %s", path, other);
    wait_for_end();
}
void attack(int n, char **word) {
    char path[PATH_MAX];
    (void)n;
    TRY(rmdir(word[0]));
    TRY(symlink(word[1], word[0]));
    snprintf(path, sizeof path, "%s/made", word[0]);
    TRY(open(path, O_CREAT | O_WRONLY, 0600));
    ask();
}
void check(int n, char **word) {
    char path[PATH_MAX];
    struct stat status;
    snprintf(path, sizeof path, "%s/made", word[n - 1]);
    if (stat(path, &status) == 0 || lstat(word[0], &status) < 0 || !S_ISDIR(status.st_mode)) reached();
    refused("the host's directories are as they were");
}
