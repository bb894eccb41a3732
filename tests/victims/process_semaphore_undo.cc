// A semaphore of System V that is given back when the process ends (SEM_UNDO).
#include <sys/ipc.h>
#include <sys/sem.h>

#include "victim.h"

int main() {
  const int set = semget(IPC_PRIVATE, 1, 0600);
  if (set < 0) victim_skip("System V semaphores");
  VICTIM_CHECK(semctl(set, 0, SETVAL, 1) == 0);
  sembuf take{0, -1, SEM_UNDO};
  VICTIM_CHECK(semop(set, &take, 1) == 0);
  VICTIM_LOSES("what exit(2) would take back in System V semaphores (SEM_UNDO");
  victim_ready();
  victim_wait();
  const int value = semctl(set, 0, GETVAL);
  VICTIM_CHECK(semctl(set, 0, IPC_RMID) == 0);
  VICTIM_CHECK(value == 0);
  victim_pass();
}
