/* Opens the program of a process that fvm is just starting. */
#include "attack.h"
#include <dirent.h>


/* Watches for a process that is still fvm's: between the fork and the program that it becomes. */
void attack(int n, char **word) {
    char path[PATH_MAX], name[32];
    struct timespec now, began;
    (void)n;
    (void)word;
    clock_gettime(CLOCK_MONOTONIC, &began);
    int seen = 0;
    do {
        DIR *processes = opendir("/proc");
        for (struct dirent *entry; (entry = readdir(processes));) {
            int pid = atoi(entry->d_name);
            if (pid < 2) continue;
            snprintf(path, sizeof path, "/proc/%d/comm", pid);
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            ssize_t length = fd < 0 ? 0 : read(fd, name, sizeof name);
            if (fd >= 0) close(fd);
            if (length != 4 || memcmp(name, "fvm\n", 4)) continue;
            seen++;
            snprintf(path, sizeof path, "/proc/%d/exe", pid);
            if (open(path, O_RDONLY) >= 0) {
                /* It may have become its own program meanwhile. */
                char target[PATH_MAX] = "";
                if (readlink(path, target, sizeof target - 1) > 4 && !strcmp(target + strlen(target) - 4, "/fvm")) reached();
            }
        }
        closedir(processes);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - began.tv_sec < 2);
    refused("%d looks at processes of fvm's, none opened", seen);
}
