/* Hears by fanotify that a host process writes a file. */
#include "attack.h"
#include <sys/fanotify.h>

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
    int fd = (int)TRY(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY));
    TRY(fanotify_mark(fd, FAN_MARK_ADD, FAN_MODIFY | FAN_OPEN, AT_FDCWD, word[n - 1]));
    struct pollfd wait = {fd, POLLIN, 0};
    if (poll(&wait, 1, 400) == 1) reached();
    refused("no event came");
}
