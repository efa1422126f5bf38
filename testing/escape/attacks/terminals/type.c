/* Types into a terminal of the host's with TIOCSTI. */
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
    (void)n;
    setsid();
    int fd = (int)TRY(open(word[0], O_RDWR));
    TRY(ioctl(fd, TIOCSTI, "x"));
    ask();
}
