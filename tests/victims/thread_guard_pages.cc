// Stacks with guard pages: a write below the stack is still a fault.
#include <pthread.h>
#include <setjmp.h>
#include <sys/mman.h>

#include "victim.h"

static pthread_barrier_t step;
static sigjmp_buf back;

static void on_fault(int) { siglongjmp(back, 1); }

static void* live(void* stack) {
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  volatile char* guard = static_cast<char*>(stack) - 100;
  if (sigsetjmp(back, 1) == 0) {
    *guard = 1;
    victim_fail("the guard page can be written to");
  }
  return nullptr;
}

int main() {
  constexpr std::size_t kSize = 256 * 1024;
  auto* memory = static_cast<char*>(mmap(nullptr, kSize + 4096, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0));
  VICTIM_CHECK(memory != MAP_FAILED && mprotect(memory, 4096, PROT_NONE) == 0);
  struct sigaction action {};
  action.sa_handler = on_fault;
  VICTIM_CHECK(sigaction(SIGSEGV, &action, nullptr) == 0);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  VICTIM_CHECK(pthread_attr_setstack(&attributes, memory + 4096, kSize) == 0);
  pthread_barrier_init(&step, nullptr, 2);
  pthread_t thread;
  VICTIM_CHECK(pthread_create(&thread, &attributes, live, memory + 4096) == 0);
  pthread_barrier_wait(&step);
  victim_ready();
  victim_wait();
  pthread_barrier_wait(&step);
  VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
