/* Makes a BPF map by a 32-bit system call. */
#include "attack.h"
#include <linux/bpf.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
#ifdef __x86_64__
    union bpf_attr *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    TRY(map == MAP_FAILED ? -1 : 0);
    *map = (union bpf_attr){.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(357L), "b"((long)BPF_MAP_CREATE), "c"(map), "d"((long)sizeof *map)
                     : "memory", "r8", "r9", "r10", "r11");
    if (result >= 0) reached();
    errno = (int)-result;
    refused_call("int80_bpf");
#else
    absent("no 32-bit calls");
#endif
}
