/* Reaches the host's files through /proc/PID/cwd of a host process. */
#include "attack.h"

void victim(void) {
    ready("/proc/%d/cwd%s", getpid(), strrchr(secret_file("file"), '/'));
    wait_for_end();
}
void attack(int n, char **word) { try_to_read_secret(word[n - 1]); }
