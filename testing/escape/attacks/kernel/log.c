/* Reads the kernel's log. */
#include "attack.h"
#include <sys/klog.h>

void attack(int n, char **word) {
    (void)n;
    (void)word;
    static char text[4096];
    TRY(klogctl(3, text, sizeof text));
    reached();
}
