/* Reads the counts of the machine's pages. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char text[64];
    int fd = open("/proc/kpagecount", O_RDONLY | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) absent("no /proc/kpagecount");
    TRY(fd);
    /* Nothing there just now is an answer too. */
    ssize_t length = read(fd, text, sizeof text);
    if (length > 0 || (length < 0 && errno == EAGAIN)) reached();
    refused("nothing in it");
}
