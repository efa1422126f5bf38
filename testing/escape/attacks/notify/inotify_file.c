/* Hears by inotify that a host process writes a file. */
#include "attack.h"
#include <sys/inotify.h>

/* Opens and writes its file again and again. */
void victim(void) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", secret_file("file"));
    ready("%s", path);
    for (;;) {
        write_file(path, SECRET);
        usleep(50000);
    }
}

void attack(int n, char **word) {
    int fd = (int)TRY(inotify_init1(IN_CLOEXEC));
    TRY(inotify_add_watch(fd, word[n - 1], IN_MODIFY | IN_CLOSE_WRITE));
    struct pollfd wait = {fd, POLLIN, 0};
    if (poll(&wait, 1, 400) == 1) reached();
    refused("no event came");
}
