/* Makes a host process the owner of a socket, which the kernel then signals. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    struct f_owner_ex owner = {F_OWNER_PID, atoi(word[n - 1])}, now;
    int ends[2];
    TRY(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    TRY(fcntl(ends[0], F_SETOWN_EX, &owner));
    TRY(fcntl(ends[0], F_GETOWN_EX, &now));
    if (now.pid == owner.pid) reached();
    refused("the owner is another one");
}
