// A thread that waits for a message of System V.
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/msg.h>

#include "victim.h"

struct Message {
  long type;
  char text[8];
};

static int queue = -1;
static pid_t tid = 0;

static void* wait(void*) {
  __atomic_store_n(&tid, static_cast<pid_t>(syscall(SYS_gettid)), __ATOMIC_RELEASE);
  Message message{};
  // One of the calls that a stop and a continuation end (signal(7)).
  while (msgrcv(queue, &message, sizeof message.text, 0, 0) < 0) VICTIM_CHECK(errno == EINTR);
  VICTIM_CHECK(message.type == 4 && std::strcmp(message.text, "text") == 0);
  return nullptr;
}

int main() {
  queue = msgget(IPC_PRIVATE, 0600);
  if (queue < 0) victim_skip("System V messages");
  pthread_t thread;
  VICTIM_CHECK(pthread_create(&thread, nullptr, wait, nullptr) == 0);
  while (__atomic_load_n(&tid, __ATOMIC_ACQUIRE) == 0) sched_yield();
  victim_await_syscall(getpid(), tid, SYS_msgrcv);
  VICTIM_STAYS_NEAR("message queues and semaphores do not either");
  victim_ready();
  victim_wait();
  const Message message{4, "text"};
  VICTIM_CHECK(msgsnd(queue, &message, 5, 0) == 0 && pthread_join(thread, nullptr) == 0);
  VICTIM_CHECK(msgctl(queue, IPC_RMID, nullptr) == 0);
  victim_pass();
}
