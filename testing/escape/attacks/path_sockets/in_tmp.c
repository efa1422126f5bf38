/* Connects to a path socket in /tmp, as of X11 or an ssh agent. */
#include "attack.h"

void victim(void) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/fvm-escape-%d.sock", getpid());
    listen_at(path, SOCK_STREAM);
}
void attack(int n, char **word) { connect_to(word[n - 1], SOCK_STREAM); }
