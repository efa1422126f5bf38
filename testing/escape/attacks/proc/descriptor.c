/* Opens a deleted file of a host process through /proc/PID/fd. */
#include "attack.h"

void victim(void) {
    const char *path = secret_file("file");
    int fd = (int)MAKE(open(path, O_RDONLY));
    unlink(path);
    ready("/proc/%d/fd/%d", getpid(), fd);
    wait_for_end();
}
void attack(int n, char **word) { try_to_read_secret(word[n - 1]); }
