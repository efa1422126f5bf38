/* Sends a message into a queue by its key. */
#include "sysv.h"

void attack(int n, char **word) {
    struct { long type; char text[32]; } message = {7, "from the VM"};
    (void)n;
    int id = (int)TRY(msgget(atoi(word[0]), 0));
    TRY(msgsnd(id, &message, sizeof message.text, IPC_NOWAIT));
    reached();
}
