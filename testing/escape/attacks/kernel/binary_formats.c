/* Opens the registration of binary formats. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    open_setting(AT_FDCWD, "/proc/sys/fs/binfmt_misc/register");
}
