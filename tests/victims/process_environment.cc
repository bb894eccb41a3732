// The environment, as it was given and as it was changed.
#include "victim.h"

int main() {
  VICTIM_CHECK(setenv("VICTIM", "value", 1) == 0 && unsetenv("HOME") == 0);
  const char* path = getenv("PATH");
  char before[4096] = "";
  if (path != nullptr) strncpy(before, path, sizeof before - 1);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(std::strcmp(getenv("VICTIM"), "value") == 0 && getenv("HOME") == nullptr);
  VICTIM_CHECK(path == nullptr || std::strcmp(getenv("PATH"), before) == 0);
  const pid_t child = fork();
  if (child == 0)
    execl("/bin/sh", "sh", "-c", "test \"$VICTIM\" = value && test -z \"$HOME\"", nullptr);
  victim_check_child(child);
  victim_pass();
}
