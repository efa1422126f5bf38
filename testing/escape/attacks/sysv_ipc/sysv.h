/* System V objects of the host: key, and the ids of a segment, a queue and a semaphore. */
#include "../attack.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

/* The victim has a segment, a queue and a semaphore, which go when it does. */
static int segment, queue, semaphores;

static void remove_all(int signal) {
    (void)signal;
    shmctl(segment, IPC_RMID, NULL);
    msgctl(queue, IPC_RMID, NULL);
    semctl(semaphores, 0, IPC_RMID);
    _exit(0);
}

void victim(void) {
    key_t key = 0x46560000 + getpid();
    struct { long type; char text[32]; } message = {1, SECRET};
    segment = (int)MAKE(shmget(key, 4096, IPC_CREAT | 0666));
    queue = (int)MAKE(msgget(key, IPC_CREAT | 0666));
    semaphores = (int)MAKE(semget(key, 1, IPC_CREAT | 0666));
    signal(SIGTERM, remove_all);
    char *shared = shmat(segment, NULL, 0);
    if (shared == (void *)-1) broken("shmat");
    strcpy(shared, SECRET);
    MAKE(msgsnd(queue, &message, sizeof message.text, 0));
    ready("%d %d %d %d", (int)key, segment, queue, semaphores);
    wait_for_end();
}
