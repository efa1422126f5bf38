/* Connects to an X11 server at its path in /tmp/.X11-unix. */
#include "attack.h"

void victim(void) {
    char path[64];
    mkdir("/tmp/.X11-unix", 01777);
    snprintf(path, sizeof path, "/tmp/.X11-unix/X%d", getpid());
    listen_at(path, SOCK_STREAM);
}
void attack(int n, char **word) { connect_to(word[n - 1], SOCK_STREAM); }
