/* Lives in the host's mount namespace. */
#include "attack.h"

void victim(void) {
    char name[64] = "";
    MAKE(readlink("/proc/self/ns/mnt", name, sizeof name - 1));
    ready("%s", name);
    wait_for_end();
}
void attack(int n, char **word) {
    char name[64] = "";
    TRY(readlink("/proc/self/ns/mnt", name, sizeof name - 1));
    if (!strcmp(name, word[n - 1])) reached();
    refused("it has its own");
}
