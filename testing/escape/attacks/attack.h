/* What every attack shares; the protocol is in README.md.
 *
 *   victim()            on the host, before:  prepares, prints `ready WORDS...`, lives until it is told to end
 *   attack(n, words)    in the VM, or outside as control:  ends with reached(), refused(), absent() or ask()
 *   check(n, words)     on the host, after an ask():  ends with reached() or refused()
 *
 * Invariant: an attack that succeeds does no harm: it writes what was there before, or to what its victim made.
 */
#ifndef ATTACK_H
#define ATTACK_H
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A program uses some of these. */
#define HELP __attribute__((unused)) static

/* What a secret on the host looks like: whoever reads it has reached the host. */
#define SECRET "the-secret-of-the-host"

void victim(void) __attribute__((weak));
void attack(int n, char **word);
void check(int n, char **word) __attribute__((weak));

HELP void __attribute__((noreturn)) reached(void) {
    puts("reached");
    exit(0);
}

HELP void __attribute__((noreturn, format(printf, 1, 2))) absent(const char *why, ...) {
    va_list rest;
    va_start(rest, why);
    printf("absent: ");
    vprintf(why, rest);
    puts("");
    exit(0);
}

HELP void __attribute__((noreturn, format(printf, 1, 2))) refused(const char *why, ...) {
    va_list rest;
    va_start(rest, why);
    printf("refused: ");
    vprintf(why, rest);
    puts("");
    exit(0);
}

/* A call of the kernel's that failed: the text of the call up to its arguments, and errno. */
HELP void __attribute__((noreturn)) refused_call(const char *call) {
    int error = errno, length = (int)strcspn(call, "(");
    if (error == ENOSYS) absent("%.*s: %s", length, call, strerror(error));
    refused("%.*s: %s", length, call, strerror(error));
}

HELP void __attribute__((noreturn)) broken(const char *call) {
    printf("broken: %s: %s\n", call, strerror(errno));
    exit(1);
}

/* In an attack: a step that the confinement may refuse. */
#define TRY(call) ({ long result_ = (long)(call); if (result_ == -1) refused_call(#call); result_; })
/* Anywhere: a step that has to work; the suite fails when it does not. */
#define MAKE(call) ({ long result_ = (long)(call); if (result_ == -1) broken(#call); result_; })

/* In an attack: only check() on the host can tell. */
HELP void __attribute__((noreturn)) ask(void) {
    puts("ask");
    exit(0);
}

/* --- victims ------------------------------------------------------------------------------------------------ */

static char at_end_[8][PATH_MAX];
static int at_end_count_;

HELP void end_(int signal) {
    (void)signal;
    for (int i = 0; i < at_end_count_; i++) unlink(at_end_[i]);
    _exit(0);
}

/* Removes `path` when the victim ends. */
HELP void remove_at_end(const char *path) {
    if (at_end_count_ < 8) snprintf(at_end_[at_end_count_++], PATH_MAX, "%s", path);
}

/* Says that the attack may begin, with the words that it and check() get. */
HELP void __attribute__((format(printf, 1, 2))) ready(const char *words, ...) {
    va_list rest;
    va_start(rest, words);
    printf("ready ");
    vprintf(words, rest);
    puts("");
    fflush(stdout);
}

HELP void __attribute__((noreturn)) wait_for_end(void) {
    for (;;) pause();
}

/* A path of the victim's own, in its working directory: an ordinary directory that the VM sees. */
HELP const char *own_path(const char *name) {
    static char path[4][PATH_MAX];
    static int next;
    char dir[PATH_MAX - 300];
    char *result = path[next++ % 4];
    if (!getcwd(dir, sizeof dir)) broken("getcwd");
    snprintf(result, PATH_MAX, "%s/%s.%s.%d", dir, program_invocation_short_name, name, getpid());
    return result;
}

/* A file of the victim's with the secret in it. */
HELP const char *secret_file(const char *name) {
    const char *path = own_path(name);
    int fd = (int)MAKE(open(path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600));
    MAKE(write(fd, SECRET, strlen(SECRET)));
    close(fd);
    return path;
}

HELP void write_file(const char *path, const char *text) {
    int fd = (int)MAKE(open(path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0666));
    MAKE(write(fd, text, strlen(text)));
    close(fd);
}

/* The effect of an attack arrived: check_hit() finds it. `base` is a path of the victim's. */
HELP void hit(const char *base) {
    char path[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s.hit", base);
    write_file(path, "hit");
}

HELP void __attribute__((noreturn)) check_hit(const char *base) {
    char path[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s.hit", base);
    /* What was sent may still be on its way. */
    for (int i = 0; i < 20; i++) {
        if (access(path, F_OK) == 0) reached();
        usleep(10000);
    }
    refused("nothing arrived on the host");
}

/* --- small helps -------------------------------------------------------------------------------------------- */

HELP int text_has(const char *path, const char *needle) {
    static char text[1 << 20];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    size_t length = 0;
    for (ssize_t got; length < sizeof text && (got = read(fd, text + length, sizeof text - length)) > 0;) length += (size_t)got;
    close(fd);
    return memmem(text, length, needle, strlen(needle)) != NULL;
}

/* Whether the secret can be read here. Refused when the file cannot be opened or holds something else. */
HELP void __attribute__((noreturn)) try_to_read_secret(const char *path) {
    TRY(open(path, O_RDONLY | O_CLOEXEC));
    if (text_has(path, SECRET)) reached();
    refused("another content");
}

HELP struct sockaddr_un unix_path(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    return address;
}

/* Length of an abstract address whose name is `name`, made in `address`. */
HELP socklen_t unix_abstract(struct sockaddr_un *address, const char *name) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path + 1, name, strlen(name));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
}

/* The victim listens on a path socket of `type`, prints its path and answers nothing. */
HELP void __attribute__((noreturn)) listen_at(const char *path, int type) {
    struct sockaddr_un address = unix_path(path);
    unlink(path);
    int fd = (int)MAKE(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    MAKE(bind(fd, (struct sockaddr *)&address, sizeof address));
    MAKE(chmod(path, 0777));
    if (type != SOCK_DGRAM) MAKE(listen(fd, 16));
    remove_at_end(path);
    ready("%s", path);
    wait_for_end();
}

/* Connects: that a host's socket takes the connection is the reach. */
HELP void __attribute__((noreturn)) connect_to(const char *path, int type) {
    struct sockaddr_un address = unix_path(path);
    int fd = (int)TRY(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    TRY(connect(fd, (struct sockaddr *)&address, sizeof address));
    reached();
}

HELP void __attribute__((noreturn)) listen_abstract(const char *name, int type) {
    struct sockaddr_un address;
    socklen_t length = unix_abstract(&address, name);
    int fd = (int)MAKE(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    MAKE(bind(fd, (struct sockaddr *)&address, length));
    if (type != SOCK_DGRAM) MAKE(listen(fd, 16));
    ready("%s", name);
    wait_for_end();
}

HELP void __attribute__((noreturn)) connect_abstract(const char *name, int type) {
    struct sockaddr_un address;
    socklen_t length = unix_abstract(&address, name);
    int fd = (int)TRY(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    TRY(connect(fd, (struct sockaddr *)&address, length));
    reached();
}

/* --- devices, settings, mounts ------------------------------------------------------------------------------- */

/* Opens a device and leaves it alone. */
HELP void __attribute__((noreturn)) open_device(const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && (errno == ENOENT || errno == ENXIO || errno == ENODEV)) absent("no %s", path);
    TRY(fd);
    reached();
}

/* Opens a setting of the kernel for writing and does not write. */
HELP void __attribute__((noreturn)) open_setting(int dir, const char *path) {
    int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) absent("no %s", path);
    TRY(fd);
    reached();
}

/* Power over namespaces of its own: all that a program can get by itself. Whoever has it already keeps it. */
HELP void take_namespaces(int flags) {
    char map[64];
    unsigned uid = getuid(), gid = getgid();
    if (unshare(CLONE_NEWUSER | flags) < 0) return;
    int fd = open("/proc/self/uid_map", O_WRONLY);
    snprintf(map, sizeof map, "0 %u 1", uid);
    if (fd < 0 || write(fd, map, strlen(map)) < 0) return;
    close(fd);
    fd = open("/proc/self/setgroups", O_WRONLY);
    if (fd >= 0 && write(fd, "deny", 4) >= 0) close(fd);
    fd = open("/proc/self/gid_map", O_WRONLY);
    snprintf(map, sizeof map, "0 %u 1", gid);
    if (fd >= 0 && write(fd, map, strlen(map)) >= 0) close(fd);
}

/* A new mount of `type`, attached nowhere, or -1. `key` and `value`: one option; `value` NULL: a flag. */
HELP int new_mount(const char *type, const char *key, const char *value) {
    int context = (int)syscall(SYS_fsopen, type, 0);
    if (context < 0) return -1;
    if (key && syscall(SYS_fsconfig, context, value ? 1 : 0, key, value, 0) < 0) return -1;
    if (syscall(SYS_fsconfig, context, 6, NULL, NULL, 0) < 0) return -1;
    return (int)syscall(SYS_fsmount, context, 0, 0);
}

/* A file system for which the kernel asks for power over the machine: as it is, then in namespaces of its own. */
HELP void __attribute__((noreturn)) try_to_mount(const char *type, const char *key, const char *value) {
    int tree = new_mount(type, key, value);
    if (tree < 0 && errno == ENODEV) absent("no %s in this kernel", type);
    if (tree < 0 && geteuid() != 0) {
        take_namespaces(CLONE_NEWNS);
        tree = new_mount(type, key, value);
    }
    /* The kernel looked for a disk: permission was given. */
    if (tree >= 0 || errno == ENOTBLK || errno == EBUSY) reached();
    refused_call(type);
}

/* fvm's state is covered in a VM: who sees VMs there has left it. `root`: where the search for it begins. */
HELP void __attribute__((noreturn)) look_for_state(const char *root) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s%s/vms", root, getenv("ESCAPE_HOME"));
    TRY(open(path, O_RDONLY | O_DIRECTORY));
    reached();
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2) return 2;
    if (!strcmp(argv[1], "victim")) {
        signal(SIGTERM, end_);
        signal(SIGHUP, end_);
        /* Never longer than the suite. */
        alarm(600);
        signal(SIGALRM, end_);
        umask(0);
        if (victim) {
            victim();
        } else {
            puts("none");
        }
        return 0;
    }
    if (!strcmp(argv[1], "attack")) {
        attack(argc - 2, argv + 2);
    } else if (!strcmp(argv[1], "check") && check) {
        check(argc - 2, argv + 2);
    }
    return 2;
}
#endif
