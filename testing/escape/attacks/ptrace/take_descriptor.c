/* Takes a descriptor of a host process with pidfd_getfd. */
#include "attack.h"

void victim(void) {
    int fd = (int)MAKE(open(secret_file("file"), O_RDONLY));
    ready("%d %d", getpid(), fd);
    wait_for_end();
}
void attack(int n, char **word) {
    (void)n;
    int process = (int)TRY(syscall(SYS_pidfd_open, atoi(word[0]), 0));
    TRY(syscall(SYS_pidfd_getfd, process, atoi(word[1]), 0));
    reached();
}
