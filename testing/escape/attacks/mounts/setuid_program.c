/* Becomes the host's root by a set-user-id program of the host's. */
#include "attack.h"

void attack(int n, char **word) {
    char command[PATH_MAX * 3];
    (void)n;
    (void)word;
    snprintf(command, sizeof command, "%s/become-root %s/only-for-root 2>&1", getenv("ESCAPE_LAB"), getenv("ESCAPE_LAB"));
    FILE *said = popen(command, "r");
    char text[256] = "";
    if (said && fgets(text, sizeof text, said) && !strncmp(text, SECRET, strlen(SECRET))) reached();
    text[strcspn(text, "\n")] = 0;
    refused("%s", text);
}
