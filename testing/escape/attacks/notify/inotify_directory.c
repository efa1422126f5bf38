/* Hears by inotify what host processes do in a directory. */
#include "attack.h"
#include <libgen.h>
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
    char event[4096], *name = strrchr(word[n - 1], '/') + 1;
    int fd = (int)TRY(inotify_init1(IN_CLOEXEC));
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", word[n - 1]);
    TRY(inotify_add_watch(fd, dirname(dir), IN_MODIFY | IN_OPEN));
    struct pollfd wait = {fd, POLLIN, 0};
    for (int i = 0; i < 100 && poll(&wait, 1, 400) == 1; i++) {
        ssize_t length = read(fd, event, sizeof event);
        if (length > 0 && memmem(event, (size_t)length, name, strlen(name))) reached();
    }
    refused("no event came");
}
