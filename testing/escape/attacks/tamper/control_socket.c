/* Connects to the control socket of its VM. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct sockaddr_un address = unix_path(getenv("ESCAPE_SOCKET"));
    int stream = (int)TRY(socket(AF_UNIX, SOCK_STREAM, 0)), packets = (int)TRY(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    if (connect(packets, (struct sockaddr *)&address, sizeof address) == 0) reached();
    TRY(connect(stream, (struct sockaddr *)&address, sizeof address));
    reached();
}
