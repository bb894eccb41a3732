// Shared memory with a name, which a child has mapped too.
#include "named_memory.h"

int main() {
  const NamedMemory named = make_named_memory();
  const pid_t child = fork();
  if (child == 0) {
    victim_await_signal();
    VICTIM_CHECK(std::strcmp(named.memory + 4096, "named") == 0);
    std::strcpy(named.memory, "by the child");
    _exit(0);
  }
  VICTIM_NOT_COPIED("memory that others may share stays at home");
  VICTIM_CLASHES_AT_HOME("its name is taken");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(kill(child, SIGTERM) == 0);
  victim_check_child(child);
  end_named_memory(named, "by the child");
  victim_pass();
}
