/* Removes a POSIX shared memory object. */
#include "attack.h"

void victim(void) {
    char name[64], path[80];
    snprintf(name, sizeof name, "/fvm-escape-gone-%d", getpid());
    MAKE(shm_open(name, O_CREAT | O_RDWR, 0666));
    snprintf(path, sizeof path, "/dev/shm%s", name);
    remove_at_end(path);
    ready("%s", name);
    wait_for_end();
}
void attack(int n, char **word) {
    TRY(shm_unlink(word[n - 1]));
    reached();
}
