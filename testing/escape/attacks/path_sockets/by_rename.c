/* Renames a host's socket in the VM, which copies it up, and connects to that. */
#include "attack.h"

void victim(void) { listen_at(own_path("sock"), SOCK_STREAM); }
void attack(int n, char **word) {
    char other[PATH_MAX];
    snprintf(other, sizeof other, "%s3", word[n - 1]);
    TRY(rename(word[n - 1], other));
    connect_to(other, SOCK_STREAM);
}
