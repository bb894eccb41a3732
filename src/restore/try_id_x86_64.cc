#include <linux/sched.h>
#include <sched.h>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <utility>

#include <sys/syscall.h>
#include <sys/wait.h>

#include "restore/try_id.h"

namespace telefork::restore {
namespace {

// So many at once have ended and are not waited for yet: a user may have only so many processes.
constexpr std::size_t kAtOnce = 64;

// The child is on this very stack, which others use meanwhile, and so touches no memory and may do
// nothing but end; copying the memory for it would take a hundred times as long.
long clone_and_end(const clone_args& arguments) {
  long result = SYS_clone3;
  asm volatile(
      "syscall\n\t"
      "test %%eax, %%eax\n\t"
      "jnz 1f\n\t"
      "xor %%edi, %%edi\n\t"
      "mov %[exit], %%eax\n\t"
      "syscall\n"
      "1:"
      : "+a"(result)
      : "D"(&arguments), "S"(sizeof(arguments)), [exit] "i"(SYS_exit_group)
      : "rcx", "r11", "memory");
  return result;
}

}  // namespace

int try_id(pid_t id) { return try_ids({&id, 1}).front(); }

std::vector<int> try_ids(std::span<const pid_t> ids) {
  std::vector<int> errors;
  errors.reserve(ids.size());
  std::vector<pid_t> children;
  const auto see_ends = [&children] {
    for (const pid_t child : std::exchange(children, {})) {
      while (::waitpid(child, nullptr, __WALL) < 0 && errno == EINTR) {
      }
    }
  };
  // No handler may run in them.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, &before);
  for (const pid_t& id : ids) {
    clone_args arguments{};
    arguments.flags = CLONE_VM;
    arguments.set_tid = reinterpret_cast<std::uint64_t>(&id);
    arguments.set_tid_size = 1;
    const long pid = clone_and_end(arguments);
    errors.push_back(pid < 0 ? static_cast<int>(-pid) : 0);
    if (pid > 0) children.push_back(static_cast<pid_t>(pid));
    if (children.size() == kAtOnce) see_ends();
  }
  see_ends();
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  return errors;
}

}  // namespace telefork::restore
