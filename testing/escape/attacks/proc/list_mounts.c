/* Lists the mounts of the host's mount namespace with listmount. */
#include "attack.h"

void victim(void) {
    struct { uint32_t size, mounts; uint64_t id; } info = {.size = 16};
    if (ioctl((int)MAKE(open("/proc/self/ns/mnt", O_RDONLY)), _IOR(0xb7, 10, typeof(info)), &info) < 0) {
        puts("absent: this kernel does not number mount namespaces");
        return;
    }
    ready("%llu", (unsigned long long)info.id);
    wait_for_end();
}
void attack(int n, char **word) {
    struct { uint32_t size, spare; uint64_t mount, param, ns; } request = {.size = 32, .mount = ~0ULL};
    uint64_t found[16];
    request.ns = strtoull(word[n - 1], NULL, 10);
    if (TRY(syscall(458, &request, found, 16, 0)) > 0) reached();
    refused("no mounts");
}
