/* Walks the kernel's BPF programs. */
#include "attack.h"
#include <linux/bpf.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    union bpf_attr next = {.start_id = 0};
    /* None loaded is an answer too. */
    if (syscall(SYS_bpf, BPF_PROG_GET_NEXT_ID, &next, sizeof next) == 0 || errno == ENOENT) reached();
    refused_call("bpf");
}
