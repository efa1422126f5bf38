/* Receives a message from a queue. */
#include "sysv.h"

void attack(int n, char **word) {
    struct { long type; char text[32]; } message;
    (void)n;
    TRY(msgrcv(atoi(word[2]), &message, sizeof message.text, 0, IPC_NOWAIT));
    if (!strcmp(message.text, SECRET)) reached();
    refused("another content");
}
