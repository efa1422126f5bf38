/* Finds a descriptor that the host's user had open. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct stat status;
    for (int fd = 3; fd < 4096; fd++)
        if (fstat(fd, &status) == 0) reached();
    refused("only 0, 1 and 2");
}
