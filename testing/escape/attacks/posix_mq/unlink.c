/* Removes a POSIX message queue. */
#include "attack.h"
#include <mqueue.h>

void victim(void) {
    char name[64];
    snprintf(name, sizeof name, "/fvm-escape-%s-%d", program_invocation_short_name, getpid());
    struct mq_attr size = {.mq_maxmsg = 4, .mq_msgsize = 64};
    mqd_t queue = (mqd_t)MAKE(mq_open(name, O_CREAT | O_RDWR, 0666, &size));
    MAKE(mq_send(queue, SECRET, sizeof SECRET, 0));
    ready("%s", name);
    sigset_t set;
    int got;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    sigwait(&set, &got);
    mq_unlink(name);
}

void attack(int n, char **word) {
    TRY(mq_unlink(word[n - 1]));
    reached();
}
