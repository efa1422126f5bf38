/* Makes a read-only mount of the host's writable and makes a file in it. */
#include "attack.h"

void attack(int n, char **word) {
    struct { uint64_t set, clear, propagation, userns; } change = {0, 1 /* MOUNT_ATTR_RDONLY */, 0, 0};
    const char *shelf = getenv("ESCAPE_SHELF");
    char path[PATH_MAX];
    (void)n;
    (void)word;
    syscall(442 /* mount_setattr */, AT_FDCWD, shelf, 0, &change, sizeof change);
    mount(NULL, shelf, NULL, MS_REMOUNT | MS_BIND | MS_NODEV, NULL);
    mount(NULL, shelf, NULL, MS_REMOUNT, NULL);
    snprintf(path, sizeof path, "%s/fvm-escape", shelf);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    int error = errno;
    unlink(path);
    /* In the control it was the host's. */
    if (fd >= 0) mount(NULL, shelf, NULL, MS_REMOUNT | MS_RDONLY, NULL);
    errno = error;
    TRY(fd);
    reached();
}
