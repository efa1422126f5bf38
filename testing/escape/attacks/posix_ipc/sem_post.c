/* Posts a named POSIX semaphore that a host process waits for. */
#include "attack.h"
#include <semaphore.h>

void victim(void) {
    char name[64], path[80];
    snprintf(name, sizeof name, "/fvm-escape-sem-%d", getpid());
    sem_t *semaphore = sem_open(name, O_CREAT, 0666, 0);
    if (semaphore == SEM_FAILED) broken("sem_open");
    const char *mark = own_path("mark");
    snprintf(path, sizeof path, "/dev/shm/sem.%s", name + 1);
    remove_at_end(path);
    ready("%s %s", name, mark);
    sem_wait(semaphore);
    hit(mark);
    wait_for_end();
}
void attack(int n, char **word) {
    (void)n;
    sem_t *semaphore = sem_open(word[0], 0);
    TRY(semaphore == SEM_FAILED ? -1 : 0);
    TRY(sem_post(semaphore));
    ask();
}
void check(int n, char **word) { check_hit(word[n - 1]); }
