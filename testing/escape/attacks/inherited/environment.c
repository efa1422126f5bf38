/* Finds a variable of the environment that names fvm's own places. */
#include "attack.h"

extern char **environ;

void attack(int n, char **word) {
    (void)n;
    (void)word;
    for (char **at = environ; *at; at++)
        if (strncmp(*at, "ESCAPE_", 7) && (strstr(*at, getenv("ESCAPE_HOME")) || strstr(*at, getenv("ESCAPE_SOCKET")))) reached();
    refused("no such variable");
}
