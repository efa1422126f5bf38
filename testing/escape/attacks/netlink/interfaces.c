/* Finds an interface of the host's by rtnetlink. */
#include "attack.h"
#include <net/if.h>

void victim(void) {
    struct if_nameindex *all = if_nameindex();
    for (int i = 0; all && all[i].if_index; i++)
        if (strcmp(all[i].if_name, "lo")) {
            ready("%s", all[i].if_name);
            wait_for_end();
        }
    puts("absent: the host has no interface but lo");
}
void attack(int n, char **word) {
    struct if_nameindex *all = if_nameindex();
    TRY(all ? 0 : -1);
    for (int i = 0; all[i].if_index; i++)
        if (!strcmp(all[i].if_name, word[n - 1])) reached();
    refused("not among the interfaces");
}
