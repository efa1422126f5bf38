/* Makes a BPF map. */
#include "attack.h"
#include <linux/bpf.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    TRY(syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map));
    reached();
}
