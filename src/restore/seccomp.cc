// The filters of system calls, last of all, and not in force before the guest is let go: what the
// stub still does is none of their business.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <algorithm>
#include <cerrno>

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "restore/restorer.h"
#include "tracee/memory.h"

namespace telefork::restore {
namespace {

using image::schema::SeccompFilter;
using tracee::SyscallProgram;

void suspend(tracee::TracedThread& thread) {
  try {
    thread.set_options(PTRACE_O_EXITKILL | PTRACE_O_SUSPEND_SECCOMP);
  } catch (const Error& error) {
    if (error.error() != EPERM) throw;
    throw Error(Code::kRefused, "it runs under seccomp, and to restore that takes CAP_SYS_ADMIN");
  }
}

void add_filter(SeccompFilter::Reader filter, std::uint64_t flags, tracee::Stub& stub,
                SyscallProgram& program) {
  ::capnp::Data::Reader code = filter.getProgram();
  const std::size_t steps = code.size() / sizeof(sock_filter);
  if (code.size() % sizeof(sock_filter) != 0 || steps == 0 || steps > BPF_MAXINSNS) {
    throw Error(Code::kCorrupt, fmt::format("a seccomp filter of {} bytes", code.size()));
  }
  const RemotePtr there = stub.allocate(code.size());
  tracee::write_memory(stub.pid(), there, std::as_bytes(std::span(code.begin(), code.size())));
  struct {  // struct sock_fprog
    std::uint64_t count;
    std::uint64_t code;
  } const header{steps, there.value()};
  flags |= filter.getFlags() & SECCOMP_FILTER_FLAG_LOG;
  program.call_expecting("restoring a seccomp filter", 0, SYS_seccomp,
                         {SECCOMP_SET_MODE_FILTER, flags, program.object(header)});
}

// At home the pid has been under its filters all the time.
std::size_t count_filters_there(const tracee::TracedThread& thread,
                                ::capnp::List<SeccompFilter>::Reader wanted) {
  if (kernel::read_status(thread.tid()).seccomp != SECCOMP_MODE_FILTER) return 0;
  const auto there = thread.seccomp_filters();
  bool same = there.size() <= wanted.size();
  for (unsigned i = 0; same && i < there.size(); ++i) {
    ::capnp::Data::Reader program = wanted[i].getProgram();
    same = std::equal(program.begin(), program.end(), there[i].program.begin(),
                      there[i].program.end());
  }
  if (same) return there.size();
  throw Error(Code::kRefused, "its process is under seccomp filters that it did not have");
}

}  // namespace

void Restorer::restore_seccomp() {
  const std::uint32_t mode = threads_.front().get<image::schema::Thread>().getSeccompMode();
  if (mode == SECCOMP_MODE_DISABLED) {
    // At home, where whoever began it may have got some since. Elsewhere it is under those that its
    // keeper is under, as all that is begun there.
    const bool comes_home = settings_.find_blank != nullptr;
    if (!comes_home || kernel::read_status(blank_->pid()).seccomp == SECCOMP_MODE_DISABLED) return;
    throw Error(Code::kRefused, "its process is under seccomp filters that it did not have");
  }
  suspend(blank_->thread());
  for (tracee::TracedThread& thread : other_threads_) suspend(thread);
  SyscallProgram program;
  if (mode == SECCOMP_MODE_STRICT) {
    program.call("restoring strict seccomp", SYS_prctl,
                 {PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0});
  }
  const std::uint64_t flags = other_threads_.empty() ? 0 : SECCOMP_FILTER_FLAG_TSYNC;
  const auto filters = process().getSeccompFilters();
  const std::size_t there = count_filters_there(blank_->thread(), filters);
  for (auto i = static_cast<unsigned>(there); i < filters.size(); ++i) {
    add_filter(filters[i], flags, blank_->stub(), program);
  }
  if (program.empty() && there != 0) return;
  if (program.empty()) throw Error(Code::kCorrupt, "it is under seccomp, and has no filter");
  blank_->stub().run(program);
}

}  // namespace telefork::restore
