/* Walks to another mount namespace of the host's by its neighbours. */
#include "attack.h"

struct info { uint32_t size, mounts; uint64_t id; };

void attack(int n, char **word) {
    struct info info = {.size = sizeof info};
    (void)n;
    (void)word;
    int fd = (int)TRY(open("/proc/self/ns/mnt", O_RDONLY));
    for (int kind = 11; kind <= 12; kind++)
        if (ioctl(fd, _IOR(0xb7, kind, struct info), &info) >= 0) reached();
    if (errno == ENOTTY) absent("this kernel has no way from one to the next");
    refused_call("ioctl(NS_MNT_GET_NEXT)");
}
