/* Hears by inotify that a host process opens a file of a read-only mount. */
#include "attack.h"
#include <sys/inotify.h>

void victim(void) {
    char path[PATH_MAX];
    MAKE(chdir("../shelf"));
    snprintf(path, sizeof path, "%s", secret_file("file"));
    ready("%s", path);
    for (;;) {
        close(open(path, O_RDONLY));
        usleep(50000);
    }
}
void attack(int n, char **word) {
    int fd = (int)TRY(inotify_init1(IN_CLOEXEC));
    TRY(inotify_add_watch(fd, word[n - 1], IN_OPEN));
    struct pollfd wait = {fd, POLLIN, 0};
    if (poll(&wait, 1, 400) == 1) reached();
    refused("no event came");
}
