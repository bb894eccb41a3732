#include "capture/origins.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <set>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/pidfd.h"
#include "kernel/procfs.h"

namespace telefork::capture {
namespace {

using image::schema::FileDescription;

constexpr int kSignalWords = 64;  // as valid_signal() in the kernel has them

// First what is sent anyway where none is said (SIGIO), then what does nothing by default.
std::array<int, kSignalWords> marks_in_order() {
  std::array<int, kSignalWords> marks{SIGIO, SIGURG, SIGWINCH};
  std::size_t next = 3;
  for (int signal = 1; signal <= kSignalWords; ++signal) {
    if (signal != SIGIO && signal != SIGURG && signal != SIGWINCH) marks.at(next++) = signal;
  }
  return marks;
}

bool is_before(const UniqueFd& held, pid_t pid, int fd) {
  long order = ::syscall(SYS_kcmp, ::getpid(), pid, KCMP_FILE, held.get(), fd);
  if (order < 0) throw_errno(fmt::format("looking at descriptor {} of process {}", fd, pid));
  return order == 1;
}

bool is_same(const UniqueFd& held, pid_t pid, int fd) {
  return ::syscall(SYS_kcmp, ::getpid(), pid, KCMP_FILE, held.get(), fd) == 0;
}

}  // namespace

Origins::Origins(pid_t guest, image::schema::Files::Reader files) : guest_(guest) {
  std::set<std::uint32_t> known;
  for (image::schema::Descriptor::Reader descriptor : files.getDescriptors()) {
    const std::uint32_t number = descriptor.getDescription();
    if (number >= files.getDescriptions().size() || !known.insert(number).second) continue;
    auto kind = files.getDescriptions()[number].getKind();
    // These are known by their pipes.
    if (kind == FileDescription::Kind::STDIO) continue;
    add(static_cast<int>(descriptor.getFd()), {number, kind});
  }
}

void Origins::add(int fd, Origin origin) {
  static const std::array<int, kSignalWords> kMarks = marks_in_order();
  UniqueFd file = kernel::take_fd(guest_, fd);
  if (!file) throw Error(Code::kFailed, fmt::format("the guest's descriptor {} is not there", fd));
  kernel::FdInfo info = kernel::read_fdinfo(guest_, fd);
  std::size_t& used = used_[{info.mount_id, info.inode}];
  if ((info.flags & O_PATH) == 0 && used < kMarks.size()) {
    const int mark = kMarks.at(used++);
    if (::fcntl(file.get(), F_SETSIG, mark) != 0) {
      throw_errno(fmt::format("marking the guest's descriptor {}", fd));
    }
    marked_.emplace(std::make_tuple(info.mount_id, info.inode, mark), origin);
    return;
  }
  auto place = find_held(::getpid(), file.get());
  held_.insert(place, {std::move(file), origin});
}

std::vector<Origins::Held>::const_iterator Origins::find_held(pid_t pid, int fd) const {
  return std::partition_point(held_.begin(), held_.end(),
                              [&](const Held& held) { return is_before(held.file, pid, fd); });
}

std::optional<Origin> Origins::find(int fd, const kernel::FdInfo& info) const {
  if ((info.flags & O_PATH) == 0) {
    UniqueFd file = kernel::take_fd(guest_, fd);
    const int mark = file ? ::fcntl(file.get(), F_GETSIG) : 0;
    auto marked = marked_.find(std::make_tuple(info.mount_id, info.inode, mark));
    if (marked != marked_.end()) return marked->second;
  }
  auto held = find_held(guest_, fd);
  if (held == held_.end() || !is_same(held->file, guest_, fd)) return std::nullopt;
  return held->origin;
}

}  // namespace telefork::capture
