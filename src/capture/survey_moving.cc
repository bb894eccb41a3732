#include "capture/survey_moving.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <tuple>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/pidfd.h"

namespace telefork::capture {
namespace {

using Kind = image::schema::FileDescription::Kind;

constexpr std::uint64_t kSecretMemory = 0x5345434d;  // SECRETMEM_MAGIC

std::optional<Kind> kind_of_anonymous(const std::string& link) {
  if (link == "anon_inode:[eventfd]") return Kind::EVENTFD;
  if (link == "anon_inode:[timerfd]") return Kind::TIMERFD;
  if (link == "anon_inode:[signalfd]") return Kind::SIGNALFD;
  if (link == "anon_inode:[eventpoll]") return Kind::EPOLL;
  return std::nullopt;
}

// Whether what `fd` names is what the epoll watches: the nth of those that were added by that
// number [kcmp(2)].
bool is_target(pid_t thread, int fd, const Description& epoll, int number, unsigned nth) {
  kcmp_epoll_slot slot{static_cast<__u32>(epoll.fd), static_cast<__u32>(number), nth};
  return ::syscall(SYS_kcmp, thread, epoll.pid, KCMP_EPOLL_TFD, fd, &slot) == 0;
}

// The kernel's order is by where they lie in its memory.
void sort_items(std::vector<EpollItem>& items) {
  std::sort(items.begin(), items.end(), [](const EpollItem& a, const EpollItem& b) {
    return std::tie(a.target.fd, a.description) < std::tie(b.target.fd, b.description);
  });
}

// By its handle, which takes CAP_DAC_READ_SEARCH. Empty: it cannot be told, or has none any more.
std::string find_watched(const kernel::InotifyTarget& target,
                         const std::vector<kernel::MountInfo>& mounts, struct stat& stat) {
  if (target.handle.empty() || target.handle.size() > MAX_HANDLE_SZ) return "";
  alignas(file_handle) std::array<std::byte, sizeof(file_handle) + MAX_HANDLE_SZ> bytes{};
  auto* handle = reinterpret_cast<file_handle*>(bytes.data());
  handle->handle_bytes = static_cast<unsigned>(target.handle.size());
  handle->handle_type = target.handle_type;
  std::copy(target.handle.begin(), target.handle.end(), bytes.begin() + sizeof(file_handle));
  for (const kernel::MountInfo& mount : mounts) {
    constexpr unsigned kMinorBits = 20;
    if (((mount.dev_major << kMinorBits) | mount.dev_minor) != target.device) continue;
    UniqueFd folder(::open(mount.mount_point.c_str(), O_RDONLY | O_CLOEXEC));
    UniqueFd file(::open_by_handle_at(folder.get(), handle, O_PATH | O_CLOEXEC));
    if (!file || ::fstat(file.get(), &stat) != 0 || stat.st_nlink == 0) continue;
    std::string path = kernel::read_fd_link(::getpid(), file.get());
    struct stat named;
    if (path.starts_with('/') && ::stat(path.c_str(), &named) == 0 && named.st_dev == stat.st_dev &&
        named.st_ino == stat.st_ino) {
      return path;
    }
  }
  return "";
}

bool is_named_fifo(const OpenFile& open) {
  return open.link.starts_with('/') && open.stat.st_nlink > 0;
}

}  // namespace

MovingDescriptors::MovingDescriptors(Survey& survey) : survey_(survey) {
  for (std::size_t i = 0; i < survey.pipes.size(); ++i) pipes_.emplace(survey.pipes[i].link, i);
}

pid_t MovingDescriptors::holder_of(const OpenFile& open) {
  return survey_.outside.find({survey_.thread, open.fd, open.link, open.stat});
}

Sorted MovingDescriptors::sort(const OpenFile& open, Description description) {
  if (S_ISFIFO(open.stat.st_mode)) return sort_pipe(open, std::move(description));
  if (S_ISSOCK(open.stat.st_mode)) return sort_socket(open, std::move(description));
  if (S_ISCHR(open.stat.st_mode)) return sort_pty(open, std::move(description));
  std::optional<Kind> kind = kind_of_anonymous(open.link);
  const bool inotify = open.link == "anon_inode:inotify";
  const bool pidfd = open.link == "anon_inode:[pidfd]" || open.link.starts_with("pidfd:");
  if (!kind && !inotify && !pidfd) return Obstacle{Reason::kDescriptor, ""};
  // Any two pidfds of a process are alike.
  if (pidfd) return sort_pidfd(open, std::move(description));
  if (pid_t other = holder_of(open)) return Obstacle{Reason::kHolder, std::to_string(other)};
  if (inotify) return sort_inotify(open, std::move(description));
  description.kind = *kind;
  return description;
}

Sorted MovingDescriptors::sort_pipe(const OpenFile& open, Description description) {
  if (holder_of(open) != 0) return Obstacle{Reason::kPipe, ""};
  if (survey_.original_stays && is_named_fifo(open)) return Obstacle{Reason::kKept, ""};
  description.kind = Kind::PIPE;
  auto [known, is_new] = pipes_.emplace(open.link, survey_.pipes.size());
  description.object = known->second;
  if (!is_new) return description;
  PipeObject pipe{open.link, std::nullopt};
  // One whose name is gone is found by nobody else any more.
  if (is_named_fifo(open)) {
    pipe.fifo = survey_.files.add(kernel::fd_open_path(survey_.thread, open.fd), open.link, false);
    survey_.files.entries()[*pipe.fifo].access |= R_OK | W_OK;
  }
  survey_.pipes.push_back(std::move(pipe));
  return description;
}

bool MovingDescriptors::has_both_ends(const OpenFile& open) {
  bool read = false;
  bool write = false;
  for (const auto& [pid, fd] : survey_.outside.places(open.link)) {
    try {
      const unsigned access = kernel::read_fdinfo(pid, fd).flags & O_ACCMODE;
      read = read || access != O_WRONLY;
      write = write || access != O_RDONLY;
    } catch (const Error& error) {
      if (error.code() != Code::kGone && error.error() != ENOENT) throw;
    }
  }
  return read && write && holder_of(open) == 0;
}

Sorted MovingDescriptors::sort_pidfd(const OpenFile& open, Description description) {
  description.pidfd_of = kernel::parse_pidfd(open.info);
  if (!survey_.outside.moves(description.pidfd_of)) return Obstacle{Reason::kDescriptor, ""};
  description.kind = Kind::PIDFD;
  return description;
}

Sorted MovingDescriptors::sort_inotify(const OpenFile& open, Description description) {
  description.kind = Kind::INOTIFY;
  int unread = 0;
  UniqueFd taken = kernel::take_fd(survey_.pid, open.fd);
  if (taken && ::ioctl(taken.get(), FIONREAD, &unread) != 0) throw_errno("asking an inotify");
  if (unread != 0) return Obstacle{Reason::kUnreadEvents, ""};
  std::vector<kernel::MountInfo> mounts = kernel::read_mountinfo(::getpid());
  for (const kernel::InotifyTarget& target : kernel::parse_inotify(open.info)) {
    struct stat stat {};
    std::string path = find_watched(target, mounts, stat);
    if (path.empty()) return Obstacle{Reason::kUnknownWatch, std::to_string(target.number)};
    description.watches.push_back({target.number, target.mask, std::move(path), stat.st_mode});
  }
  return description;
}

Sorted MovingDescriptors::sort_file(const OpenFile& open, Description description,
                                    FileEntry::Content content) {
  struct statfs filesystem {};
  std::string path = kernel::fd_open_path(survey_.thread, open.fd);
  if (::statfs(path.c_str(), &filesystem) != 0) throw_errno("looking at " + path);
  if (filesystem.f_type == HUGETLBFS_MAGIC && content != FileEntry::Content::MEMORY_FILE) {
    return Obstacle{Reason::kHugeTlb, ""};
  }
  if (static_cast<std::uint64_t>(filesystem.f_type) == kSecretMemory) {
    return Obstacle{Reason::kOtherFile, ""};
  }
  if (pid_t other = survey_.outside.find_file(open.stat.st_dev, open.stat.st_ino);
      other != 0 && !survey_.copies_shared) {
    return Obstacle{Reason::kHolder, std::to_string(other)};
  }
  std::string name = open.link;
  if (name.ends_with(" (deleted)")) name.resize(name.size() - 10);
  description.file = survey_.files.add(path, name, true);
  if (!survey_.files.entries()[*description.file].readable) {
    return Obstacle{Reason::kUnreadableFile, ""};
  }
  survey_.files.move(*description.file, content);
  return description;
}

void MovingDescriptors::settle(Description& epoll, const Survey& holder) {
  std::map<int, unsigned> seen;
  auto watches = [&](int fd, const kernel::EpollTarget& target, unsigned nth) {
    return is_target(holder.thread, fd, epoll, target.fd, nth);
  };
  kernel::FdInfo info = kernel::read_fdinfo(holder.thread, epoll.fd);
  for (const kernel::EpollTarget& target : kernel::parse_epoll(info)) {
    const unsigned nth = seen[target.fd]++;
    // Most often it still has the number that it was added by.
    auto same_number =
        std::find_if(holder.descriptors.begin(), holder.descriptors.end(),
                     [&](const Descriptor& descriptor) { return descriptor.fd == target.fd; });
    if (same_number != holder.descriptors.end() && watches(target.fd, target, nth)) {
      epoll.epoll.push_back({target, same_number->description});
      continue;
    }
    auto found = std::find_if(
        survey_.descriptions.begin(), survey_.descriptions.end(),
        [&](const Description& one) { return is_target(one.pid, one.fd, epoll, target.fd, nth); });
    if (found != survey_.descriptions.end()) {
      auto index = static_cast<std::size_t>(found - survey_.descriptions.begin());
      epoll.epoll.push_back({target, index});
      continue;
    }
    if (std::any_of(holder.refused_fds.begin(), holder.refused_fds.end(),
                    [&](int fd) { return watches(fd, target, nth); })) {
      continue;
    }
    survey_.refusals.push_back(refuse(fmt::format("fd {} -> {}", epoll.fd, epoll.name),
                                      Reason::kEpollTarget, std::to_string(target.fd)));
  }
}

// Nobody has it at a number, by which more could be asked of it or be given back to it.
void MovingDescriptors::settle_in_flight() {
  for (const Description& description : survey_.descriptions) {
    if (description.pid != ::getpid()) continue;
    const Kind kind = description.kind;
    const bool simple = kind == Kind::REGULAR || kind == Kind::DIRECTORY || kind == Kind::DEVICE ||
                        kind == Kind::PIPE || kind == Kind::SOCKET || kind == Kind::EVENTFD;
    f_owner_ex owner{};
    const bool owned = ::fcntl(description.fd, F_GETOWN_EX, &owner) == 0 && owner.pid != 0;
    if (simple && !owned && description.locks.empty()) continue;
    survey_.refusals.push_back(refuse(description.name, Reason::kSentAlong));
  }
}

void MovingDescriptors::settle_epolls(std::span<Survey* const> members) {
  for (Description& description : survey_.descriptions) {
    if (description.kind != Kind::EPOLL) continue;
    auto holder = std::find_if(members.begin(), members.end(), [&](const Survey* member) {
      return member->thread == description.pid;
    });
    // Only of one that runs: it has ended meanwhile.
    if (holder == members.end()) continue;
    settle(description, **holder);
    sort_items(description.epoll);
  }
}

}  // namespace telefork::capture
