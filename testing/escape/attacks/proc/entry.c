/* Finds a host process in /proc by its number. */
#include "attack.h"

void victim(void) {
    ready("%d", getpid());
    wait_for_end();
}

void attack(int n, char **word) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/comm", word[n - 1]);
    if (text_has(path, "proc.entry")) reached();
    refused("no such process, or another one");
}
