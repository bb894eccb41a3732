#include "tracee/registers.h"

#include <csignal>
#include <cstring>

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tracee/stub.h"
#include "tracee/testing_victim.h"

namespace telefork::tracee {
namespace {

// Nothing but the kernel runs between the first and the last of these instructions.
__attribute__((target("avx"))) int hold_ymm(int stop_fd, int ready_fd) {
  alignas(32) const std::uint64_t before[4] = {1, 2, 3, 4};
  alignas(32) std::uint64_t after[4] = {};
  char byte = 1;
  if (::write(ready_fd, "", 1) != 1) return 9;
  long count = SYS_read;
  asm volatile(
      "vmovdqa %[before], %%ymm15\n\t"
      "syscall\n\t"
      "vmovdqa %%ymm15, %[after]\n\t"
      : "+a"(count), [after] "=m"(after)
      : [before] "m"(before), "D"(stop_fd), "S"(&byte), "d"(1)
      : "rcx", "r11", "xmm15", "memory");
  return count == 1 && std::memcmp(before, after, sizeof(after)) == 0 ? 0 : 1;
}

TEST(SignalFrame, HasAllVectorRegistersWhenTheTracerDies) {
  if (!__builtin_cpu_supports("avx")) GTEST_SKIP() << "needs: avx";
  Victim victim(hold_ymm);
  pid_t tracer = ::fork();
  if (tracer == 0) {
    TracedThread thread = TracedThread::seize(victim.pid(), 0);
    thread.interrupt();
    Stub stub(thread, victim.pid(), {});
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(tracer, &status, 0), tracer);
  EXPECT_EQ(victim.finish(), 0);
}

}  // namespace
}  // namespace telefork::tracee
