/* Opens /proc/PID/mem of a host process. */
#include "attack.h"
#include <sys/uio.h>

static char secret[64] = SECRET;

void victim(void) {
    ready("%d %lx", getpid(), (unsigned long)secret);
    wait_for_end();
}

void attack(int n, char **word) {
    char path[64], text[64] = "";
    (void)n;
    snprintf(path, sizeof path, "/proc/%s/mem", word[0]);
    int fd = (int)TRY(open(path, O_RDWR));
    TRY(pread(fd, text, sizeof text - 1, (off_t)strtoul(word[1], NULL, 16)));
    if (!strcmp(text, SECRET)) reached();
    refused("another memory");
}
