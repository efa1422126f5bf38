/* Links a host's socket to a new name in the VM and connects to that. */
#include "attack.h"

void victim(void) { listen_at(own_path("sock"), SOCK_STREAM); }
void attack(int n, char **word) {
    char other[PATH_MAX];
    snprintf(other, sizeof other, "%s2", word[n - 1]);
    unlink(other);
    TRY(link(word[n - 1], other));
    connect_to(other, SOCK_STREAM);
}
