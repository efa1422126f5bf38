/* Sets an attribute of a file of the host's. */
#include "attack.h"
#include <sys/xattr.h>

void victim(void) {
    ready("%s", secret_file("file"));
    wait_for_end();
}

void attack(int n, char **word) {
    TRY(setxattr(word[n - 1], "user.escape", "x", 1, 0));
    ask();
}
void check(int n, char **word) {
    char value[8];
    if (getxattr(word[n - 1], "user.escape", value, sizeof value) >= 0) reached();
    refused("the host's file is as it was");
}
