/* Forges overlayfs's own marks on a directory, which a later start would follow. */
#include "attack.h"
#include <sys/xattr.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    mkdir("marked", 0777);
    TRY(setxattr("marked", "trusted.overlay.redirect", "/etc", 4, 0));
    reached();
}
