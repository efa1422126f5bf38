/* Reads the environment of a host process. */
#include "attack.h"

void victim(void) {
    if (getenv("ESCAPE_MARK")) {
        ready("/proc/%d/environ", getpid());
        wait_for_end();
    }
    setenv("ESCAPE_MARK", SECRET, 1);
    execl("/proc/self/exe", program_invocation_name, "victim", NULL);
    broken("execl");
}
void attack(int n, char **word) { try_to_read_secret(word[n - 1]); }
