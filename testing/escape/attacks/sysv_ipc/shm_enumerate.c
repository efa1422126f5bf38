/* Finds a segment by going through the kernel's table of segments. */
#include "sysv.h"

void attack(int n, char **word) {
    struct shm_info info;
    struct shmid_ds segment_info;
    (void)n;
    int last = (int)TRY(shmctl(0, SHM_INFO, (struct shmid_ds *)&info));
    for (int i = 0; i <= last; i++)
        if (shmctl(i, SHM_STAT, &segment_info) == atoi(word[1])) reached();
    refused("not in the table");
}
