/* Finds the layers of a VM. */
#include "attack.h"
#include <ftw.h>

static int look(const char *path, const struct stat *status, int type, struct FTW *at) {
    (void)status;
    (void)type;
    if (!strcmp(path + at->base, "upper")) reached();
    return 0;
}

void attack(int n, char **word) {
    (void)n;
    (void)word;
    TRY(access(getenv("ESCAPE_HOME"), R_OK));
    nftw(getenv("ESCAPE_HOME"), look, 16, FTW_PHYS);
    refused("no layers below it");
}
