/* Is signalled by dnotify when a host process writes in a directory. */
#include "attack.h"
#include <libgen.h>

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

static volatile sig_atomic_t told;
static void tell(int signal) { told = signal; }

void attack(int n, char **word) {
    signal(SIGIO, tell);
    int fd = (int)TRY(open(dirname(word[n - 1]), O_RDONLY | O_DIRECTORY));
    TRY(fcntl(fd, F_NOTIFY, DN_MODIFY | DN_MULTISHOT));
    for (int i = 0; i < 40 && !told; i++) usleep(10000);
    if (told) reached();
    refused("no event came");
}
