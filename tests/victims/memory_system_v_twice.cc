// Shared memory of System V that is attached twice, once to be read only, with its permissions.
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "victim.h"

int main() {
  const int id = shmget(IPC_PRIVATE, 3 * 4096 + 100, 0640);
  if (id < 0) victim_skip("System V memory");
  auto* memory = static_cast<char*>(shmat(id, nullptr, 0));
  auto* view = static_cast<char*>(shmat(id, nullptr, SHM_RDONLY));
  VICTIM_CHECK(memory != reinterpret_cast<void*>(-1) && view != reinterpret_cast<void*>(-1));
  VICTIM_CHECK(shmctl(id, IPC_RMID, nullptr) == 0);
  std::strcpy(memory + 3 * 4096, "end");
  VICTIM_NOT_COPIED("memory that others may share stays at home");
  VICTIM_REFUSED_BESIDE("the process itself has it until it has gone");
  VICTIM_NOT_LOADED_BY_PLAIN_USERS("to choose an id takes root");
  victim_ready();
  victim_wait();
  shmid_ds about{};
  VICTIM_CHECK(std::strcmp(view + 3 * 4096, "end") == 0 && memory[0] == 0);
  memory[5] = 'n';
  VICTIM_CHECK(view[5] == 'n' && mprotect(view, 4096, PROT_READ | PROT_WRITE) == -1);
  VICTIM_CHECK(shmctl(id, IPC_STAT, &about) == 0 && about.shm_nattch == 2);
  VICTIM_CHECK(about.shm_segsz == 3 * 4096 + 100 && about.shm_perm.uid == geteuid());
  VICTIM_CHECK((about.shm_perm.mode & 0777) == 0640 && (about.shm_perm.mode & SHM_DEST) != 0);
  VICTIM_CHECK(shmdt(view) == 0 && shmdt(memory) == 0);
  VICTIM_CHECK(shmctl(id, IPC_STAT, &about) == -1);
  victim_pass();
}
