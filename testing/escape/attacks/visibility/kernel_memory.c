/* Opens the image of the kernel's memory. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char magic[4];
    int fd = open("/proc/kcore", O_RDONLY);
    if (fd < 0 && errno == ENOENT) absent("no /proc/kcore");
    TRY(fd);
    if (TRY(read(fd, magic, 4)) == 4 && !memcmp(magic, "\177ELF", 4)) reached();
    refused("no image");
}
