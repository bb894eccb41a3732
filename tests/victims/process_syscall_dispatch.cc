// System calls that the kernel hands back to the program (Syscall User Dispatch): by a selector,
// which one thread has set the whole time, and by where they are made.
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "victim.h"

namespace {

constexpr int kSetDispatch = 59;
constexpr char kPass = 0;
constexpr char kHandBack = 1;

pthread_barrier_t step;
thread_local volatile char selector = kPass;
thread_local volatile long handed_back = 0;
volatile bool over = false;

// Whose return is a system call itself.
void on_system_call(int, siginfo_t* info, void*) {
  selector = kPass;
  handed_back = info->si_syscall;
}

bool is_handed_back(long (*call)()) {
  handed_back = 0;
  call();
  selector = kPass;
  return handed_back == SYS_getpgid;
}

long ask_for_group() { return syscall(SYS_getpgid, 0); }

void check_selector() {
  VICTIM_CHECK(!is_handed_back(ask_for_group));
  selector = kHandBack;
  VICTIM_CHECK(is_handed_back(ask_for_group));
}

// It computes, and makes no system call, as long as all of its own are handed back.
void* compute(void*) {
  VICTIM_CHECK(prctl(kSetDispatch, 1, 0, 0, &selector) == 0);
  pthread_barrier_wait(&step);
  selector = kHandBack;
  while (!over) __builtin_ia32_pause();
  selector = kPass;
  check_selector();
  pthread_barrier_wait(&step);
  return nullptr;
}

// Those made in one page are handed back; it has no selector.
void* call_from_a_page(void*) {
  const auto code = mmap(reinterpret_cast<void*>(0x200000), 4096, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  // mov $121,%eax; xor %edi,%edi; syscall; ret
  const unsigned char bytes[] = {0xb8, 121, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, 0xc3};
  VICTIM_CHECK(code != MAP_FAILED && std::memcpy(code, bytes, sizeof bytes) == code);
  VICTIM_CHECK(mprotect(code, 4096, PROT_READ | PROT_EXEC) == 0);
  const unsigned long behind = 0x201000;
  VICTIM_CHECK(prctl(kSetDispatch, 1, behind, ~0UL - behind, 0) == 0);
  const auto call = reinterpret_cast<long (*)()>(code);
  VICTIM_CHECK(is_handed_back(call));
  pthread_barrier_wait(&step);
  pthread_barrier_wait(&step);
  VICTIM_CHECK(is_handed_back(call) && !is_handed_back(ask_for_group));
  return nullptr;
}

}  // namespace

int main() {
  struct sigaction action {};
  action.sa_sigaction = on_system_call;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSYS, &action, nullptr);
  if (prctl(kSetDispatch, 1, 0, 0, &selector) != 0) victim_skip("syscall_user_dispatch");
  check_selector();
  pthread_t threads[2];
  pthread_barrier_init(&step, nullptr, 3);
  VICTIM_CHECK(pthread_create(&threads[0], nullptr, compute, nullptr) == 0);
  VICTIM_CHECK(pthread_create(&threads[1], nullptr, call_from_a_page, nullptr) == 0);
  pthread_barrier_wait(&step);
  VICTIM_ENDS_WITH_SESSION_HERE(
      "Where telefork is killed at that work, the process ends by SIGKILL");
  victim_ready();
  victim_wait();
  check_selector();
  over = true;
  pthread_barrier_wait(&step);
  for (const pthread_t thread : threads) VICTIM_CHECK(pthread_join(thread, nullptr) == 0);
  victim_pass();
}
