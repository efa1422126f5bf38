/* Connects to a stream socket at a path in an ordinary directory. */
#include "attack.h"

void victim(void) { listen_at(own_path("sock"), SOCK_STREAM); }
void attack(int n, char **word) { connect_to(word[n - 1], SOCK_STREAM); }
