// Guard regions (MADV_GUARD_INSTALL): a fault where they are, and nothing lost beside them.
#include <setjmp.h>
#include <sys/mman.h>

#include "victim.h"

static sigjmp_buf back;

static void on_fault(int) { siglongjmp(back, 1); }

static bool is_there(const volatile char* address) {
  if (sigsetjmp(back, 1) != 0) return false;
  return *address == *address;
}

int main() {
  constexpr int kGuardInstall = 102;
  constexpr int kGuardRemove = 103;
  auto* memory = static_cast<char*>(
      mmap(nullptr, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::memset(memory, 'm', 8 * 4096);
  if (madvise(memory + 2 * 4096, 2 * 4096, kGuardInstall) != 0) victim_skip("MADV_GUARD_INSTALL");
  std::signal(SIGSEGV, on_fault);
  victim_ready();
  victim_wait();
  for (int i = 0; i < 8; ++i) VICTIM_CHECK(is_there(memory + i * 4096) == (i != 2 && i != 3));
  VICTIM_CHECK(memory[4096] == 'm' && memory[4 * 4096] == 'm');
  VICTIM_CHECK(madvise(memory + 2 * 4096, 4096, kGuardRemove) == 0 && memory[2 * 4096] == 0);
  victim_pass();
}
