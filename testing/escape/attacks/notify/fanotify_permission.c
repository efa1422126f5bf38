/* Asks for a group that decides on the opening of files. */
#include "attack.h"
#include <sys/fanotify.h>

/* Nothing is marked: the group alone hears and decides nothing. */
void attack(int n, char **word) {
    (void)n;
    (void)word;
    TRY(fanotify_init(FAN_CLASS_CONTENT, O_RDONLY));
    reached();
}
