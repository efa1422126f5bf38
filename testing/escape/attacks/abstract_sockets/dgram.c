/* Connects to an abstract datagram socket. */
#include "attack.h"

void victim(void) { listen_abstract(strrchr(own_path("sock"), '/') + 1, SOCK_DGRAM); }
void attack(int n, char **word) { connect_abstract(word[n - 1], SOCK_DGRAM); }
