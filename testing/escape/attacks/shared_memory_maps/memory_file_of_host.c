/* Opens a memory file of a host process through /proc. */
#include "attack.h"

void victim(void) {
    int fd = (int)MAKE(memfd_create("escape", 0));
    MAKE(write(fd, SECRET, strlen(SECRET)));
    ready("/proc/%d/fd/%d", getpid(), fd);
    wait_for_end();
}
void attack(int n, char **word) { try_to_read_secret(word[n - 1]); }
