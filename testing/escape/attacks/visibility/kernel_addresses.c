/* Reads the addresses of the kernel's functions. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char line[256];
    FILE *symbols = fopen("/proc/kallsyms", "r");
    if (!symbols && errno == ENOENT) absent("no /proc/kallsyms");
    TRY(symbols ? 0 : -1);
    while (fgets(line, sizeof line, symbols))
        if (strtoul(line, NULL, 16)) reached();
    refused("all are zero");
}
