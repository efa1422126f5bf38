/* Goes above its root directory by '..'. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    int dir = (int)TRY(open("/", O_RDONLY | O_DIRECTORY));
    for (int i = 0; i < 64; i++) dir = (int)TRY(openat(dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    TRY(fchdir(dir));
    char path[PATH_MAX];
    snprintf(path, sizeof path, ".%s/vms", getenv("ESCAPE_HOME"));
    TRY(open(path, O_RDONLY | O_DIRECTORY));
    reached();
}
