/* Enters a system bus of the host's at its path in /run. */
#include "attack.h"

/* A bus that lets everybody in who comes as its own user. */
static void serve(int fd, const char *words) {
    char text[256];
    ready("%s", words);
    for (;;) {
        int peer = accept(fd, NULL, NULL);
        ssize_t length = read(peer, text, sizeof text);
        if (length > 0 && memmem(text, (size_t)length, "AUTH EXTERNAL", 13)) MAKE(write(peer, "OK 1234\r\n", 9));
        close(peer);
    }
}

static void __attribute__((noreturn)) enter(int fd) {
    char text[64] = "";
    TRY(write(fd, "\0AUTH EXTERNAL 30\r\n", 19));
    TRY(read(fd, text, sizeof text - 1));
    if (!strncmp(text, "OK ", 3)) reached();
    refused("the bus said %s", text);
}

void victim(void) {
    char path[PATH_MAX];
    if (access("/run", W_OK) < 0) {
        puts("absent: this user may not write in /run");
        exit(0);
    }
    snprintf(path, sizeof path, "/run/dbus-escape-%d", getpid());
    struct sockaddr_un address = unix_path(path);
    int fd = (int)MAKE(socket(AF_UNIX, SOCK_STREAM, 0));
    MAKE(bind(fd, (struct sockaddr *)&address, sizeof address));
    MAKE(chmod(path, 0777));
    MAKE(listen(fd, 8));
    remove_at_end(path);
    serve(fd, path);
}
void attack(int n, char **word) {
    struct sockaddr_un address = unix_path(word[n - 1]);
    int fd = (int)TRY(socket(AF_UNIX, SOCK_STREAM, 0));
    TRY(connect(fd, (struct sockaddr *)&address, sizeof address));
    enter(fd);
}
