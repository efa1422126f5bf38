/* Finds the command line of a host process by looking at all of them. */
#include "attack.h"
#include <dirent.h>

void victim(void) {
    char mark[64], number[16];
    if (getenv("ESCAPE_MARK")) {
        ready("%s", getenv("ESCAPE_MARK"));
        wait_for_end();
    }
    snprintf(number, sizeof number, "%d", getpid());
    snprintf(mark, sizeof mark, "secret-argument-%s", number);
    setenv("ESCAPE_MARK", number, 1);
    execl("/proc/self/exe", program_invocation_name, "victim", mark, NULL);
    broken("execl");
}
void attack(int n, char **word) {
    char path[64], mark[64];
    snprintf(mark, sizeof mark, "secret-argument-%s", word[n - 1]);
    DIR *processes = opendir("/proc");
    TRY(processes ? 0 : -1);
    for (struct dirent *entry; (entry = readdir(processes));) {
        snprintf(path, sizeof path, "/proc/%.16s/cmdline", entry->d_name);
        if (text_has(path, mark)) reached();
    }
    refused("no process has it");
}
