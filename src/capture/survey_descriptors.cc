// Sorts the open descriptors by what becomes of each.
#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <map>
#include <string_view>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <linux/magic.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "abi/agent.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "capture/survey_moving.h"
#include "capture/unread.h"
#include "kernel/pidfd.h"

namespace telefork::capture {

std::string describe(const OpenFile& open) {
  std::string kind;
  if (S_ISCHR(open.stat.st_mode)) {
    kind = fmt::format(" (char {}:{})", major(open.stat.st_rdev), minor(open.stat.st_rdev));
  } else if (S_ISBLK(open.stat.st_mode)) {
    kind = fmt::format(" (block {}:{})", major(open.stat.st_rdev), minor(open.stat.st_rdev));
  }
  return fmt::format("fd {} -> {}{}", open.fd, open.link, kind);
}

namespace {

using Kind = image::schema::FileDescription::Kind;

// Character devices that are the same on every machine and keep no state (Documentation/
// admin-guide/devices.txt): null, zero, full, random, urandom.
bool is_stateless_device(dev_t device) {
  if (major(device) != 1) return false;
  unsigned number = minor(device);
  return number == 3 || number == 5 || number == 7 || number == 8 || number == 9;
}

// Of the open file descriptions behind two descriptors: 0 where they are one, else which comes
// first in the kernel's own order (kcmp(2)).
struct Place {
  pid_t pid;
  int fd;
};
int compare_descriptions(Place a, Place b) {
  long order = ::syscall(SYS_kcmp, a.pid, b.pid, KCMP_FILE, a.fd, b.fd);
  if (order < 0) {
    throw_errno(fmt::format("comparing descriptors {} of process {} and {} of process {}", a.fd,
                            a.pid, b.fd, b.pid));
  }
  return order == 0 ? 0 : order == 1 ? -1 : 1;
}

OpenFile look_at(pid_t pid, int fd) {
  OpenFile open{fd, kernel::read_fd_link(pid, fd), kernel::read_fdinfo(pid, fd), {}};
  std::string path = kernel::fd_open_path(pid, fd);
  if (::stat(path.c_str(), &open.stat) == 0) return open;
  int error = errno;
  // In /proc of a process that has ended there are files that nobody can look at.
  bool gone = (error == ENOENT || error == ESRCH) && kernel::read_fd_link(pid, fd) == open.link;
  if (!gone) throw_errno("looking at " + path, error);
  open.stat = {};
  return open;
}

// The abstract name of a unix socket that has one; empty for everything else.
std::string abstract_name(pid_t pid, int fd) {
  UniqueFd socket = kernel::try_take_fd(pid, fd);
  sockaddr_un address{};
  socklen_t size = sizeof(address);
  if (!socket || ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      address.sun_family != AF_UNIX || size <= offsetof(sockaddr_un, sun_path) + 1 ||
      address.sun_path[0] != '\0') {
    return "";
  }
  return {address.sun_path + 1, size - offsetof(sockaddr_un, sun_path) - 1};
}

// Libtelefork's, which opens one to its agent anew where it finds it missing, and whose session of
// an outer call waits for where that was made.
bool is_own_socket(pid_t pid, const OpenFile& open) {
  if (!S_ISSOCK(open.stat.st_mode)) return false;
  std::string name = abstract_name(pid, open.fd);
  return name.starts_with(TELEFORK_AGENT_SOCKET_NAME) ||
         name.starts_with(TELEFORK_SESSION_SOCKET_NAME);
}

bool is_connected_stream(pid_t pid, int fd) {
  UniqueFd socket = kernel::try_take_fd(pid, fd);
  int type = 0;
  socklen_t size = sizeof type;
  sockaddr_storage peer{};
  socklen_t peer_size = sizeof peer;
  return socket && ::getsockopt(socket.get(), SOL_SOCKET, SO_TYPE, &type, &size) == 0 &&
         type == SOCK_STREAM &&
         ::getpeername(socket.get(), reinterpret_cast<sockaddr*>(&peer), &peer_size) == 0;
}

// A program that closed its standard streams may have anything at their numbers.
bool is_standard_stream(pid_t pid, const OpenFile& open) {
  if (open.fd > 2 || (open.info.flags & O_PATH) != 0) return false;
  const unsigned lacks = open.fd == 0 ? O_WRONLY : O_RDONLY;
  if ((open.info.flags & O_ACCMODE) == lacks) return false;
  if (S_ISREG(open.stat.st_mode)) return open.fd != 0 && !open.link.starts_with("/memfd:");
  if (S_ISSOCK(open.stat.st_mode)) return is_connected_stream(pid, open.fd);
  return S_ISFIFO(open.stat.st_mode) || S_ISCHR(open.stat.st_mode);
}

// Of a file of /proc, wherever that is mounted: "/PID/status".
std::string path_in_proc(pid_t pid, const OpenFile& open) {
  std::string path = open.link;
  const auto mount = kernel::find_mount(kernel::read_mounts_of(pid), open.info.mount_id);
  // Outside of the root of a process in a mount namespace of its own nobody tells the mounts.
  // check_layers: allow proc: a name is compared.
  const std::string mounted = mount ? mount->mount_point : "/proc";
  const std::string point = mounted == "/" ? "" : mounted;
  if (path.starts_with(point)) path.erase(0, point.size());
  // A bind mount of something within it.
  if (mount && mount->root != "/") path.insert(0, mount->root);
  return path;
}

// Under /proc/PID: elsewhere another process has that name. "/proc/net" is a link to there.
bool is_of_a_process(pid_t pid, const OpenFile& open) {
  const std::string path = path_in_proc(pid, open);
  return path.size() > 1 && path[0] == '/' && path[1] >= '0' && path[1] <= '9';
}

// Of what the kernel makes up: why it is no file or directory as others; nothing: it is.
std::optional<Reason> why_no_plain_file(pid_t pid, const OpenFile& open) {
  // All filesystems without a device have unnamed ones, with major number 0.
  if (major(open.stat.st_dev) != 0) return std::nullopt;
  constexpr std::uint32_t kMqueueMagic = 0x19800202;  // ipc/mqueue.c
  struct statfs filesystem {};
  std::string path = kernel::fd_open_path(pid, open.fd);
  if (::statfs(path.c_str(), &filesystem) != 0) throw_errno("looking at " + path);
  switch (filesystem.f_type) {
    case kMqueueMagic:
      return Reason::kOtherFile;
    case NSFS_MAGIC:
      return Reason::kNamespaceFile;
    case PROC_SUPER_MAGIC:
      if (is_of_a_process(pid, open)) return Reason::kProcFile;
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

// What the process's own /proc has of itself, as /proc/self has it; empty: it is something else, or
// would be another thing for another one: what is read in part, what threads have, the network.
std::string find_in_own_proc(const Survey& survey, const OpenFile& open) {
  const std::string path = path_in_proc(survey.pid, open);
  const std::string folder = fmt::format("/{}", survey.status.ns_pids.back());
  if (!path.starts_with(folder)) return "";
  const std::string rest = path.substr(folder.size());
  if (!rest.empty() && rest[0] != '/') return "";
  const bool by_address = rest == "/mem" || rest == "/pagemap";
  if (open.info.position != 0 && !by_address) return "";
  for (const char* another : {"/task/", "/net"}) {
    if (rest.starts_with(another)) return "";
  }
  struct stat there;
  if (::stat((kernel::base_path(survey.pid) + open.link).c_str(), &there) != 0 ||
      there.st_dev != open.stat.st_dev || there.st_ino != open.stat.st_ino) {
    return "";
  }
  // check_layers: allow proc: it goes into the image.
  return "/proc/self" + rest;
}

// What open(2) asks of a file.
unsigned access_of(unsigned flags) {
  if ((flags & O_PATH) != 0) return 0;
  switch (flags & O_ACCMODE) {
    case O_RDONLY:
      return R_OK;
    case O_WRONLY:
      return W_OK;
    default:
      return R_OK | W_OK;
  }
}

Reason why_not(const OpenFile& open) {
  if (S_ISFIFO(open.stat.st_mode)) return Reason::kPipe;
  if (S_ISSOCK(open.stat.st_mode)) return Reason::kSocket;
  if (S_ISCHR(open.stat.st_mode)) return Reason::kDevice;
  if (S_ISBLK(open.stat.st_mode)) return Reason::kBlockDevice;
  if (open.link.starts_with("anon_inode:")) return Reason::kDescriptor;
  return Reason::kOtherFile;
}

class Sorter {
 public:
  Sorter(const SurveyOptions& options, Survey& survey)
      : options_(options),
        survey_(survey),
        moving_(survey),
        own_sockets_from_(survey.sockets.size()) {
    // Those of other processes of its tree.
    for (std::size_t i = 0; i < survey.descriptions.size(); ++i) {
      const Description& one = survey.descriptions[i];
      remember(one.name, {one.pid, one.fd}, i);
    }
  }

  void add(int fd) {
    OpenFile open = look_at(survey_.thread, fd);
    if (is_own_socket(survey_.pid, open)) {
      survey_.own_sockets.insert(fd);
      return;
    }
    Descriptor descriptor{fd, 0, (open.info.flags & O_CLOEXEC) != 0};
    auto known = find_description(open);
    // A terminal's may be one description for all three streams; what becomes of stdin is another
    // matter than what becomes of the two others.
    if (fd == 0 && known && survey_.descriptions[*known].kind == Kind::STDIO) known.reset();
    if (known) {
      descriptor.description = *known;
      Description& description = survey_.descriptions[*known];
      // Seen before on its way through a socket.
      if (description.pid == ::getpid()) {
        description.pid = survey_.thread;
        description.fd = fd;
      }
      if (survey_.descriptions[*known].pid != survey_.thread) descriptor.locks = posix_locks(open);
      const bool kept = survey_.original_stays && !descriptor.locks.empty();
      if (kept) return add_new(open, std::move(descriptor), stay(open, Reason::kKept));
      survey_.descriptors.push_back(std::move(descriptor));
    } else {
      add_new(open, std::move(descriptor), sort(open));
    }
  }

  // What is on its way through sockets of the process, when all that it has open itself is known.
  void add_sent_along() {
    // Sockets that come so may carry some too.
    for (std::size_t i = own_sockets_from_; i < survey_.sockets.size(); ++i) {
      if (!survey_.sockets[i].carries) continue;
      auto carrier = std::find_if(
          survey_.descriptions.begin(), survey_.descriptions.end(),
          [i](const Description& one) { return one.kind == Kind::SOCKET && one.object == i; });
      UniqueFd socket = kernel::take_fd(carrier->pid, carrier->fd);
      if (!socket) continue;  // it has just been closed
      const SocketObject object = survey_.sockets[i];
      std::vector<UnreadMessage> messages =
          read_unread(socket, object.link, object.type, object.shutdown);
      for (std::uint32_t number = 0; number < messages.size(); ++number) {
        if (messages[number].sent_along.empty()) continue;
        SentAlong sent{number};
        for (UniqueFd& file : messages[number].sent_along) {
          if (auto index = add_one_sent(std::move(file), object.link)) {
            sent.descriptions.push_back(*index);
          }
        }
        survey_.sockets[i].sent_along.push_back(std::move(sent));
      }
    }
  }

 private:
  struct Known {
    Place place;  // the first
    std::size_t description;
  };

  // What is looked at is a descriptor of ours.
  class Ours {
   public:
    explicit Ours(Survey& survey) : survey_(survey), pid_(survey.pid), thread_(survey.thread) {
      survey_.pid = survey_.thread = ::getpid();
    }
    Ours(const Ours&) = delete;
    Ours& operator=(const Ours&) = delete;
    ~Ours() {
      survey_.pid = pid_;
      survey_.thread = thread_;
    }

   private:
    Survey& survey_;
    pid_t pid_;
    pid_t thread_;
  };

  // Nothing: it was refused.
  void add_new(const OpenFile& open, Descriptor descriptor,
               std::optional<Description> description) {
    if (!description) {
      survey_.refused_fds.push_back(open.fd);
      return;
    }
    description->fd = open.fd;
    description->pid = survey_.thread;
    descriptor.description = survey_.descriptions.size();
    if (description->kind == Kind::LEFT_HOME) descriptor.locks.clear();
    remember(open.link, {survey_.thread, open.fd}, descriptor.description);
    survey_.descriptions.push_back(std::move(*description));
    survey_.descriptors.push_back(std::move(descriptor));
  }

  // Empty: it was refused.
  std::optional<std::size_t> add_one_sent(UniqueFd file, const std::string& carrier) {
    const Ours ours(survey_);
    OpenFile open = look_at(survey_.thread, file.get());
    if (auto known = find_description(open)) return known;
    const std::size_t refusals = survey_.refusals.size();
    std::optional<Description> description;
    if (is_own_socket(survey_.pid, open)) {
      stay(open, Reason::kSocket);
    } else {
      description = sort(open);
    }
    for (std::size_t i = refusals; i < survey_.refusals.size(); ++i) {
      survey_.refusals[i].what = fmt::format("{}, on its way in {}", open.link, carrier);
    }
    if (!description) return std::nullopt;
    description->fd = file.get();
    description->pid = survey_.thread;
    const std::size_t index = survey_.descriptions.size();
    remember(open.link, {survey_.thread, file.get()}, index);
    survey_.descriptions.push_back(std::move(*description));
    survey_.in_flight.push_back(std::move(file));
    return index;
  }

  std::vector<kernel::LockInfo> posix_locks(const OpenFile& open) const {
    std::vector<kernel::LockInfo> locks;
    if (survey_.whole) locks = kernel::parse_locks(open.info);
    std::erase_if(locks, [](const kernel::LockInfo& lock) {
      return lock.kind != kernel::LockInfo::Kind::kPosix;
    });
    return locks;
  }

  std::optional<std::size_t> find_description(const OpenFile& open) const {
    auto same_name = known_.find(open.link);
    if (same_name == known_.end()) return std::nullopt;
    const std::vector<Known>& list = same_name->second;
    auto found = std::partition_point(list.begin(), list.end(), [&](const Known& known) {
      return compare_descriptions(known.place, {survey_.thread, open.fd}) < 0;
    });
    if (found == list.end() || compare_descriptions(found->place, {survey_.thread, open.fd}) != 0) {
      return std::nullopt;
    }
    return found->description;
  }

  // Behind one that it is said to be another than: that one is to be found.
  void remember(const std::string& link, Place place, std::size_t description) {
    std::vector<Known>& list = known_[link];
    auto before = std::partition_point(list.begin(), list.end(), [&](const Known& known) {
      return compare_descriptions(known.place, place) <= 0;
    });
    list.insert(before, {place, description});
  }

  // Its caller is at home.
  bool is_called() const {
    return options_.purpose == Purpose::kFork || options_.purpose == Purpose::kRunOn;
  }
  // What stdout and stderr are stays there, and is served from there.
  bool has_home() const {
    return is_called() || options_.purpose == Purpose::kCopy ||
           (options_.purpose == Purpose::kMove && !options_.detached);
  }

  // What stands for something of home's, on its way back. False: it is a file, home's or its own.
  bool sort_returning(const OpenFile& open, Description& description) const {
    if (options_.purpose != Purpose::kReturn && options_.purpose != Purpose::kHome) return false;
    for (auto [stream, inode] : options_.streams) {
      if (!S_ISFIFO(open.stat.st_mode) || open.stat.st_ino != inode) continue;
      description.kind = Kind::STDIO;
      description.stream = stream;
      return true;
    }
    auto origin =
        options_.origins == nullptr ? std::nullopt : options_.origins->find(open.fd, open.info);
    if (!origin) return false;
    description.origin = origin->description;
    if (origin->kind != Kind::NULL_ && origin->kind != Kind::LEFT_HOME) return false;
    description.kind = origin->kind;
    return true;
  }

  std::optional<Description> sort(const OpenFile& open) {
    Description description{Kind::REGULAR,
                            open.link,
                            open.info.flags & ~unsigned{O_CLOEXEC},
                            static_cast<std::uint64_t>(open.info.position),
                            std::nullopt,
                            0};
    if (sort_returning(open, description)) return description;
    if (S_ISCHR(open.stat.st_mode) && is_stateless_device(open.stat.st_rdev)) {
      description.kind = Kind::DEVICE;
      return with_file(open, std::move(description));
    }
    if (open.stat.st_mode == 0) return stay(open, Reason::kProcFile);
    // Of one on its way home those were known by their pipes.
    const bool stream = options_.purpose != Purpose::kHome &&
                        is_standard_stream(survey_.pid, open) && !is_own_stream(open) &&
                        is_stream_of_all(open);
    if (stream && has_home()) {
      bool carried = open.fd != 0 || options_.takes_stdin;
      description.kind = carried ? Kind::STDIO : Kind::NULL_;
      description.stream = static_cast<unsigned>(open.fd);
      return description;
    }
    if (S_ISREG(open.stat.st_mode) || S_ISDIR(open.stat.st_mode)) {
      if (auto reason = why_no_plain_file(survey_.pid, open)) {
        if (*reason == Reason::kProcFile && survey_.whole) {
          description.procfs = find_in_own_proc(survey_, open);
        }
        if (description.procfs.empty()) return stay(open, *reason);
        description.kind = Kind::PROCFS;
        return description;
      }
    }
    // Whoever goes on at home keeps its own.
    if (survey_.whole) description.locks = kernel::parse_locks(open.info);
    if (S_ISREG(open.stat.st_mode)) return sort_regular(open, std::move(description));
    if (S_ISDIR(open.stat.st_mode)) {
      description.kind = Kind::DIRECTORY;
      return with_file(open, std::move(description));
    }
    if (stream && options_.detached) return stay(open, Reason::kStream);
    if (stream && survey_.whole) {
      // `load` gives its own standard streams in their place.
      description.kind = Kind::STDIO;
      description.stream = static_cast<unsigned>(open.fd);
      return description;
    }
    if (survey_.whole && can_move(open)) return accept(open, moving_.sort(open, description));
    return stay(open, why_not(open));
  }

  // Both of its ends are, and it goes with them.
  bool is_own_stream(const OpenFile& open) {
    if (!survey_.whole) return false;
    if (S_ISSOCK(open.stat.st_mode)) return moving_.has_own_peer(open);
    if (S_ISCHR(open.stat.st_mode)) return moving_.has_both_sides(open);
    return S_ISFIFO(open.stat.st_mode) && moving_.has_both_ends(open);
  }

  // `load` gives what the first process of a tree has for its streams; what another one has is
  // that, or something else that cannot be had there.
  bool is_stream_of_all(const OpenFile& open) const {
    if (!options_.tree.contains(survey_.stat.ppid)) return true;
    return std::any_of(
        survey_.descriptions.begin(), survey_.descriptions.end(), [&](const Description& one) {
          const bool stream = one.kind == Kind::STDIO || one.kind == Kind::NULL_;
          return stream && one.name == open.link && one.stream == static_cast<unsigned>(open.fd);
        });
  }

  static bool can_move(const OpenFile& open) {
    return S_ISFIFO(open.stat.st_mode) || S_ISSOCK(open.stat.st_mode) ||
           S_ISCHR(open.stat.st_mode) || why_not(open) == Reason::kDescriptor;
  }

  std::optional<Description> accept(const OpenFile& open, Sorted sorted) {
    if (auto* description = std::get_if<Description>(&sorted)) return std::move(*description);
    const auto& obstacle = std::get<Obstacle>(sorted);
    return stay(open, obstacle.reason, obstacle.detail);
  }

  std::optional<Description> sort_regular(const OpenFile& open, Description description) {
    const bool refused = survey_.whole ? has_fragile_lock(description) : has_lock(open);
    if (refused) return stay(open, Reason::kLock);
    if (survey_.original_stays && !description.locks.empty()) return stay(open, Reason::kKept);
    // The content of a file may have come in a memory file.
    if (survey_.files.is_from_elsewhere(open.stat)) return with_file(open, std::move(description));
    const bool in_memory = open.link.starts_with(kMemoryFilePrefix);
    bool writable = (description.flags & O_ACCMODE) != O_RDONLY;
    const bool held = writable || !description.locks.empty();
    const bool nameless = held && open.stat.st_nlink == 0;
    // O_TMPFILE says how it was made, and O_DIRECTORY is a part of it.
    if (nameless) description.flags &= ~unsigned{O_TMPFILE};
    if (survey_.whole && (in_memory || nameless)) {
      return accept(open, moving_.sort_file(open, std::move(description),
                                            in_memory ? FileEntry::Content::MEMORY_FILE
                                                      : FileEntry::Content::UNLINKED_FILE));
    }
    if (in_memory) return stay(open, Reason::kMemfd);
    if (nameless) return stay(open, Reason::kDeletedWritable);
    const bool must_be_same = writable || !description.locks.empty();
    return with_file(open, std::move(description), must_be_same);
  }

  static bool has_lock(const OpenFile& open) {
    return std::any_of(open.info.details.begin(), open.info.details.end(),
                       [](const std::string& detail) { return detail.starts_with("lock:"); });
  }

  // A lease for writing is broken by whoever looks at the file; what is not known cannot be taken
  // again.
  static bool has_fragile_lock(const Description& description) {
    return std::any_of(description.locks.begin(), description.locks.end(),
                       [](const kernel::LockInfo& lock) {
                         return lock.kind == kernel::LockInfo::Kind::kOther ||
                                (lock.kind == kernel::LockInfo::Kind::kLease && lock.exclusive);
                       });
  }

  std::optional<Description> with_file(const OpenFile& open, Description description,
                                       bool must_be_same = false) {
    bool deleted = open.stat.st_nlink == 0;
    std::string path = open.link;
    if (deleted && path.ends_with(" (deleted)")) path.resize(path.size() - 10);
    description.file =
        survey_.files.add(kernel::fd_open_path(survey_.thread, open.fd), path, deleted);
    FileEntry& entry = survey_.files.entries()[*description.file];
    if (must_be_same) entry.must_be_same = true;
    entry.access |= access_of(description.flags);
    return description;
  }

  // It is left at home or refused.
  std::optional<Description> stay(const OpenFile& open, Reason reason,
                                  const std::string& detail = "") {
    if (options_.leave_home) {
      survey_.left_home.push_back(describe(open));
      return Description{Kind::LEFT_HOME, open.link, O_PATH, 0, std::nullopt, 0};
    }
    Refusal refusal = refuse(describe(open), reason, detail);
    if (is_called()) {
      refusal.remedy += ", or leave it at home with Options::fds = leave_home (--leave-fds)";
    } else if (survey_.original_stays) {
      refusal.remedy += ", or leave it at home (--leave-fds)";
    }
    survey_.refusals.push_back(std::move(refusal));
    return std::nullopt;
  }

  const SurveyOptions& options_;
  Survey& survey_;
  MovingDescriptors moving_;
  std::size_t own_sockets_from_;
  std::map<std::string, std::vector<Known>> known_;  // by name, in the kernel's order
};

bool has_socket_named(pid_t pid, std::string_view beginning) {
  for (int fd : kernel::list_fds(pid)) {
    try {
      if (kernel::read_fd_link(pid, fd).starts_with("socket:") &&
          abstract_name(pid, fd).starts_with(beginning)) {
        return true;
      }
    } catch (const Error& error) {
      if (error.code() != Code::kGone && error.error() != ENOENT) throw;
    }
  }
  return false;
}

}  // namespace

bool is_in_a_call(Survey& survey) {
  if (!survey.in_a_call) {
    survey.in_a_call = has_socket_named(survey.pid, TELEFORK_SESSION_SOCKET_NAME);
  }
  return *survey.in_a_call;
}

bool may_be_watched_by_its_agent(Survey& survey) {
  if (!survey.has_agent) {
    survey.has_agent = has_socket_named(survey.pid, TELEFORK_AGENT_SOCKET_NAME);
  }
  return *survey.has_agent;
}

void survey_descriptors(const SurveyOptions& options, Survey& survey) {
  Sorter sorter(options, survey);
  std::vector<int> fds = kernel::list_fds(survey.thread);
  // Where stdout or stderr shares its description with other descriptors it is stdio, whichever
  // number comes first.
  std::stable_partition(fds.begin(), fds.end(), [](int fd) { return fd == 1 || fd == 2; });
  for (int fd : fds) {
    if (options.own_fds.count(fd) != 0) continue;
    try {
      sorter.add(fd);
    } catch (const Error& error) {
      // A running program closes descriptors; what is gone need not move.
      if (error.error() != ENOENT && error.error() != EBADF) throw;
    }
  }
  // To look there of one that runs would be in the way of its own MSG_PEEK.
  constexpr char kTracingStop = 't';
  if (survey.stat.state == kTracingStop) sorter.add_sent_along();
  Survey* alone = &survey;
  if (options.tree.empty()) settle_descriptors({&alone, 1});
}

void settle_descriptors(std::span<Survey* const> members) {
  MovingDescriptors moving(*members.front());
  moving.settle_sockets();
  moving.settle_in_flight();
  moving.settle_epolls(members);
}

}  // namespace telefork::capture
