/* Holds a flock that a host process then cannot take. */
#include "attack.h"
#include <sys/file.h>

void victim(void) {
    ready("%s", secret_file("file"));
    wait_for_end();
}
void attack(int n, char **word) {
    int fd = (int)TRY(open(word[n - 1], O_RDONLY));
    TRY(flock(fd, LOCK_EX | LOCK_NB));
    /* A child holds it until the check is done. */
    if (fork() == 0) {
        fclose(stdout);
        setsid();
        sleep(20);
        _exit(0);
    }
    ask();
}
void check(int n, char **word) {
    int fd = (int)MAKE(open(word[n - 1], O_RDONLY));
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK) reached();
    refused("the host takes its lock");
}
