/* Makes a device node for the machine's memory and opens it. */
#include "attack.h"
#include <sys/sysmacros.h>

void attack(int n, char **word) {
    char path[] = "./fvm-escape-XXXXXX";
    (void)n;
    (void)word;
    TRY(mkdtemp(path) ? chdir(path) : -1);
    TRY(mknod("mem", S_IFCHR | 0600, makedev(1, 1)));
    int fd = open("mem", O_RDONLY);
    unlink("mem");
    if (fd < 0 && errno == ENXIO) absent("no /dev/mem");
    TRY(fd);
    reached();
}
