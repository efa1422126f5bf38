/* Loads a module (an empty one). */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (syscall(SYS_init_module, "", 0, "") >= 0 || (errno != EPERM && errno != EACCES && errno != ENOSYS)) reached();
    refused_call("init_module");
}
