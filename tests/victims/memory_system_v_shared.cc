// Shared memory of System V that a child has attached too, both of which go along.
#include <sys/ipc.h>
#include <sys/shm.h>

#include "victim.h"

int main() {
  const int id = shmget(IPC_PRIVATE, 8192, 0600);
  if (id < 0) victim_skip("System V memory");
  auto* memory = static_cast<char*>(shmat(id, nullptr, 0));
  VICTIM_CHECK(memory != reinterpret_cast<void*>(-1) && shmctl(id, IPC_RMID, nullptr) == 0);
  const pid_t child = fork();
  if (child == 0) {
    victim_await_signal();
    VICTIM_CHECK(std::strcmp(memory, "asked") == 0);
    std::strcpy(memory + 4096, "answered");
    _exit(0);
  }
  VICTIM_NOT_COPIED("memory that others may share stays at home");
  VICTIM_REFUSED_BESIDE("the process itself has it until it has gone");
  VICTIM_NOT_LOADED_BY_PLAIN_USERS("to choose an id takes root");
  victim_ready();
  victim_wait();
  std::strcpy(memory, "asked");
  VICTIM_CHECK(kill(child, SIGTERM) == 0);
  victim_check_child(child);
  VICTIM_CHECK(std::strcmp(memory + 4096, "answered") == 0);
  victim_pass();
}
