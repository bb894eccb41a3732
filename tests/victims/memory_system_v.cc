// Shared memory of System V, attached, and marked to go with its last user.
#include <sys/ipc.h>
#include <sys/shm.h>

#include "victim.h"

int main() {
  const int id = shmget(IPC_PRIVATE, 8192, 0600);
  if (id < 0) victim_skip("System V memory");
  auto* memory = static_cast<char*>(shmat(id, nullptr, 0));
  VICTIM_CHECK(memory != reinterpret_cast<void*>(-1) && shmctl(id, IPC_RMID, nullptr) == 0);
  std::strcpy(memory + 4096, "segment");
  VICTIM_NOT_COPIED("memory that others may share stays at home");
  VICTIM_REFUSED_BESIDE("the process itself has it until it has gone");
  VICTIM_NOT_LOADED_BY_PLAIN_USERS("to choose an id takes root");
  victim_ready();
  victim_wait();
  shmid_ds about{};
  VICTIM_CHECK(std::strcmp(memory + 4096, "segment") == 0);
  VICTIM_CHECK(shmctl(id, IPC_STAT, &about) == 0 && about.shm_nattch == 1);
  VICTIM_CHECK(shmdt(memory) == 0);
  victim_pass();
}
