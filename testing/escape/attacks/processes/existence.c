/* Learns by kill(0) that a process id is in use on the host. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    int pid = atoi(word[n - 1]);
    if (kill(pid, 0) == 0 || errno == EPERM) {
        /* In a VM the number may be somebody else's: the victim has a session of the host's. */
        if (getpgid(pid) == pid) reached();
    }
    refused_call("kill");
}
