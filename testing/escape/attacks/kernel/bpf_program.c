/* Loads a BPF program. */
#include "attack.h"
#include <linux/bpf.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    struct bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0}, {.code = BPF_JMP | BPF_EXIT}};
    union bpf_attr program = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insns = (uintptr_t)code, .insn_cnt = 2, .license = (uintptr_t)"MIT"};
    TRY(syscall(SYS_bpf, BPF_PROG_LOAD, &program, sizeof program));
    reached();
}
