/* Lays an overlay over the directory above fvm's state: its layers are without mounts. */
#include "attack.h"
#include <libgen.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char home[PATH_MAX], options[2 * PATH_MAX];
    snprintf(home, sizeof home, "%s", getenv("ESCAPE_HOME"));
    if (geteuid() != 0) take_namespaces(CLONE_NEWNS);
    snprintf(options, sizeof options, "%s:/tmp", dirname(home));
    int tree = (int)TRY(new_mount("overlay", "lowerdir", options));
    TRY(openat(tree, "home/vms", O_RDONLY | O_DIRECTORY));
    reached();
}
