/* Removes a module (that is not there). */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    if (syscall(SYS_delete_module, "fvm_escape", O_NONBLOCK) >= 0 || (errno != EPERM && errno != EACCES && errno != ENOSYS)) reached();
    refused_call("delete_module");
}
