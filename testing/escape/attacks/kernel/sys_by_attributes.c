/* Clears the read-only attribute of /sys and opens a setting there. */
#include "attack.h"

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct { uint64_t set, clear, propagation, userns; } change = {0, 1 /* MOUNT_ATTR_RDONLY */, 0, 0};
    syscall(442 /* mount_setattr */, AT_FDCWD, "/sys", 0, &change, sizeof change);
    open_setting(AT_FDCWD, "/sys/kernel/mm/transparent_hugepage/enabled");
}
