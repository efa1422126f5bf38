/* Binds the directory above fvm's state, without what is mounted in it. */
#include "attack.h"
#include <libgen.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char place[] = "./fvm-escape-XXXXXX", home[PATH_MAX], path[PATH_MAX];
    snprintf(home, sizeof home, "%s", getenv("ESCAPE_HOME"));
    TRY(mkdtemp(place) ? 0 : -1);
    if (geteuid() != 0) take_namespaces(CLONE_NEWNS);
    int bound = mount(dirname(home), place, NULL, MS_BIND, NULL);
    snprintf(path, sizeof path, "%s/home/vms", place);
    TRY(bound);
    TRY(open(path, O_RDONLY | O_DIRECTORY));
    reached();
}
