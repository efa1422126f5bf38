/* Reads the memory of a host process with process_vm_readv. */
#include "attack.h"
#include <sys/uio.h>

static char secret[64] = SECRET;

void victim(void) {
    ready("%d %lx", getpid(), (unsigned long)secret);
    wait_for_end();
}

void attack(int n, char **word) {
    char text[64] = "";
    (void)n;
    struct iovec here = {text, sizeof text - 1}, there = {(void *)strtoul(word[1], NULL, 16), sizeof text - 1};
    TRY(process_vm_readv(atoi(word[0]), &here, 1, &there, 1, 0));
    if (!strcmp(text, SECRET)) reached();
    refused("another memory");
}
