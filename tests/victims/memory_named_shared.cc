// Shared memory with a name.
#include "named_memory.h"

int main() {
  const NamedMemory named = make_named_memory();
  VICTIM_NOT_COPIED("memory that others may share stays at home");
  VICTIM_CLASHES_AT_HOME("its name is taken");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(std::strcmp(named.memory + 4096, "named") == 0);
  std::strcpy(named.memory, "written");
  end_named_memory(named, "written");
  victim_pass();
}
