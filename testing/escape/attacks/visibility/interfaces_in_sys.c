/* Finds an interface of the host's in /sys/class/net. */
#include "attack.h"
#include <net/if.h>

void victim(void) {
    struct if_nameindex *all = if_nameindex();
    for (int i = 0; all && all[i].if_index; i++)
        if (strcmp(all[i].if_name, "lo")) {
            ready("/sys/class/net/%s", all[i].if_name);
            wait_for_end();
        }
    puts("absent: the host has no interface but lo");
}
void attack(int n, char **word) {
    TRY(access(word[n - 1], F_OK));
    reached();
}
