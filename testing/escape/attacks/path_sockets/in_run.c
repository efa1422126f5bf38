/* Connects to a path socket in /run, as of docker or a database. */
#include "attack.h"

void victim(void) {
    char path[64];
    snprintf(path, sizeof path, "/run/fvm-escape-docker-%d.sock", getpid());
    if (access("/run", W_OK) < 0) {
        puts("absent: this user may not write in /run");
        exit(0);
    }
    listen_at(path, SOCK_STREAM);
}
void attack(int n, char **word) { connect_to(word[n - 1], SOCK_STREAM); }
