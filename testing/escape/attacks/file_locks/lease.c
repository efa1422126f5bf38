/* Takes a lease on a file, which makes the host wait when it opens it. */
#include "attack.h"

void victim(void) {
    ready("%s", secret_file("file"));
    wait_for_end();
}
void attack(int n, char **word) {
    int fd = (int)TRY(open(word[n - 1], O_RDONLY));
    TRY(fcntl(fd, F_SETLEASE, F_RDLCK));
    if (fork() == 0) {
        fclose(stdout);
        setsid();
        signal(SIGIO, SIG_IGN);
        sleep(20);
        _exit(0);
    }
    ask();
}
void check(int n, char **word) {
    if (open(word[n - 1], O_WRONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK) reached();
    refused("the host opens its file at once");
}
