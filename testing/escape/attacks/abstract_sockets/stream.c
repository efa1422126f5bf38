/* Connects to an abstract stream socket. */
#include "attack.h"

void victim(void) { listen_abstract(strrchr(own_path("sock"), '/') + 1, SOCK_STREAM); }
void attack(int n, char **word) { connect_abstract(word[n - 1], SOCK_STREAM); }
