/* Connects to a path socket that lies on a read-only mount of the host's. */
#include "attack.h"

void victim(void) {
    char path[PATH_MAX];
    MAKE(chdir("../shelf"));
    snprintf(path, sizeof path, "%s", own_path("sock"));
    listen_at(path, SOCK_STREAM);
}
void attack(int n, char **word) { connect_to(word[n - 1], SOCK_STREAM); }
