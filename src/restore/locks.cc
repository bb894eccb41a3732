// Locks on files: taken again by the guest, or it is not restored.
#include <cerrno>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "restore/restorer.h"

namespace telefork::restore {
namespace {

using image::schema::FileDescription;
using image::schema::FileLock;
using tracee::Result;
using tracee::SyscallProgram;

// A POSIX lock is the process's, and is told of each of its descriptors of the file, also of those
// that it could not have been taken by.
bool can_take(FileDescription::Reader description, FileLock::Reader lock) {
  if (lock.getKind() != FileLock::Kind::POSIX) return true;
  return (description.getFlags() & O_ACCMODE) != (lock.getExclusive() ? O_RDONLY : O_WRONLY);
}

Result add_lock(int fd, FileLock::Reader lock, SyscallProgram& program) {
  const std::string name = fmt::format("locking fd {}", fd);
  if (lock.getKind() == FileLock::Kind::FLOCK) {
    return program.call_any(name, SYS_flock,
                            {fd, (lock.getExclusive() ? LOCK_EX : LOCK_SH) | LOCK_NB});
  }
  if (lock.getKind() == FileLock::Kind::LEASE) {
    return program.call_any(name, SYS_fcntl,
                            {fd, F_SETLEASE, lock.getExclusive() ? F_WRLCK : F_RDLCK});
  }
  struct flock range {};
  range.l_type = lock.getExclusive() ? F_WRLCK : F_RDLCK;
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(lock.getStart());
  range.l_len = static_cast<off_t>(lock.getLength());
  const int command = lock.getKind() == FileLock::Kind::POSIX ? F_SETLK : F_OFD_SETLK;
  return program.call_any(name, SYS_fcntl, {fd, command, program.object(range)});
}

}  // namespace

void Restorer::restore_locks() {
  const DescriptionList all = descriptions();
  std::vector<bool> done(all.size());
  for (const auto& [number, descriptor] : descriptors_by_number()) {
    const std::uint32_t index = descriptor.getDescription();
    if (done[index]) continue;
    done[index] = true;
    SyscallProgram program;
    std::vector<std::pair<Result, const char*>> results;  // and what is in the way most often
    // POSIX locks are each process's own.
    const auto locks = holds_first(index) ? all[index].getLocks() : descriptor.getLocks();
    for (FileLock::Reader lock : locks) {
      if (!can_take(all[index], lock)) continue;
      const bool lease = lock.getKind() == FileLock::Kind::LEASE;
      results.emplace_back(
          add_lock(number, lock, program),
          lease ? "somebody has it open for writing here" : "another process has locked it here");
    }
    if (results.empty()) continue;
    tracee::ProgramRun run = blank_->stub().run(program);
    for (const auto& [result, obstacle] : results) {
      const auto error = static_cast<int>(-run.result(result));
      if (error <= 0) continue;
      std::string file = fmt::format("locking file {}", all[index].getName().cStr());
      if (error != EAGAIN && error != EACCES) throw_errno(file, error);
      throw Error(Code::kRefused, fmt::format("{}: {}", file, obstacle));
    }
  }
}

}  // namespace telefork::restore
