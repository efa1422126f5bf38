/* Reads the name of a host's key by its number. */
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
    char text[256] = "";
    TRY(syscall(SYS_keyctl, KEYCTL_DESCRIBE, atoi(word[0]), text, sizeof text - 1));
    if (strstr(text, word[n - 1])) reached();
    refused("another key");
}
