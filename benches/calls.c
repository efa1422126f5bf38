/* Nanoseconds per operation, a line each: what a program asks of the kernel all day.
 *
 *     cc -O2 -o calls calls.c && ./calls DIRECTORY
 *
 * DIRECTORY is written to. Each operation is repeated until a tenth of a second has passed, five times; the quickest counts,
 * since all that disturbs only adds. Driven by benches/confine.sh. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *dir;
static char path[4096], other[4096];
static int zero, file, back[2], forth[2];
static char buffer[65536];

static void must(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void op_getppid(void) { syscall(SYS_getppid); }
static void op_read(void) { must(read(zero, buffer, 1) == 1, "read"); }
static void op_pread(void) { must(pread(file, buffer, 4096, 0) == 4096, "pread"); }
static void op_pwrite(void) { must(pwrite(file, buffer, 4096, 0) == 4096, "pwrite"); }
static void op_stat_host(void) {
    struct stat st;
    must(stat("/usr/bin/env", &st) == 0, "stat");
}
static void op_open_host(void) {
    int fd = open("/usr/bin/env", O_RDONLY | O_CLOEXEC);
    must(fd >= 0, "open");
    close(fd);
}
static void op_open_own(void) {
    int fd = open(path, O_RDWR | O_CLOEXEC);
    must(fd >= 0, "open");
    close(fd);
}
static void op_create(void) {
    int fd = open(other, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    must(fd >= 0, "create");
    close(fd);
    must(unlink(other) == 0, "unlink");
}
static void op_readdir(void) {
    DIR *d = opendir("/usr/bin");
    must(d != NULL, "opendir");
    while (readdir(d)) {}
    closedir(d);
}
static void op_ioctl(void) {
    int n;
    must(syscall(SYS_ioctl, back[0], 0x541B /* FIONREAD */, &n) == 0, "ioctl");
}
static void op_socket(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(fd >= 0, "socket");
    close(fd);
}
static void op_pipe(void) {
    char c = 0;
    must(write(forth[1], &c, 1) == 1 && read(back[0], &c, 1) == 1, "pipe");
}
static void op_map(void) {
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(p != MAP_FAILED, "mmap");
    *(volatile char *)p = 1;
    munmap(p, 4096);
}
static void *nothing(void *p) { return p; }
static void op_thread(void) {
    pthread_t t;
    must(pthread_create(&t, NULL, nothing, NULL) == 0, "pthread_create");
    pthread_join(t, NULL);
}
static void op_fork(void) {
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) _exit(0);
    waitpid(pid, NULL, 0);
}
static void op_exec(void) {
    pid_t pid = vfork();
    must(pid >= 0, "vfork");
    if (pid == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(1);
    }
    waitpid(pid, NULL, 0);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*op)(void);
    } ops[] = {
        {"getppid", op_getppid},
        {"read a byte of /dev/zero", op_read},
        {"ioctl on a pipe", op_ioctl},
        {"socket and close", op_socket},
        {"read 4 KiB of an own file", op_pread},
        {"write 4 KiB to an own file", op_pwrite},
        {"stat of a host file", op_stat_host},
        {"open and close a host file", op_open_host},
        {"open and close an own file", op_open_own},
        {"create and remove a file", op_create},
        {"list /usr/bin", op_readdir},
        {"a byte to another process and back", op_pipe},
        {"map, touch, unmap a page", op_map},
        {"start and join a thread", op_thread},
        {"fork and wait", op_fork},
        {"run /bin/true", op_exec},
    };
    must(argc == 2, "usage: calls DIRECTORY");
    dir = argv[1];
    snprintf(path, sizeof path, "%s/own", dir);
    snprintf(other, sizeof other, "%s/other", dir);
    file = open(path, O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0600);
    must(file >= 0 && write(file, buffer, sizeof buffer) == sizeof buffer, path);
    zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    must(zero >= 0, "/dev/zero");
    must(pipe2(back, O_CLOEXEC) == 0 && pipe2(forth, O_CLOEXEC) == 0, "pipe");
    pid_t echo = fork();
    must(echo >= 0, "fork");
    if (echo == 0) {
        char c;
        close(forth[1]);
        while (read(forth[0], &c, 1) == 1 && write(back[1], &c, 1) == 1) {}
        _exit(0);
    }
    close(forth[0]);
    for (unsigned i = 0; i < sizeof ops / sizeof *ops; i++) {
        double best = 1e18;
        ops[i].op();
        for (int round = 0; round < 5; round++) {
            double began = now(), ended;
            long n = 0, step = 1;
            do {
                for (long k = 0; k < step; k++) ops[i].op();
                n += step;
                if (step < 1024) step *= 2;
                ended = now();
            } while (ended - began < 1e8);
            if ((ended - began) / n < best) best = (ended - began) / n;
        }
        printf("%s\t%.1f\n", ops[i].name, best);
        fflush(stdout);
    }
    close(forth[1]);
    waitpid(echo, NULL, 0);
    unlink(path);
    return 0;
}
