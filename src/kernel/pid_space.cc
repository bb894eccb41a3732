#include "kernel/pid_space.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "kernel/abi.h"
#include "kernel/proc_file.h"
#include "kernel/procfs_system.h"
#include "kernel/procfs_task.h"
#include "kernel/text_scanner.h"

namespace telefork::kernel {
namespace {

constexpr pid_t kReservedIds = 300;    // RESERVED_PIDS in kernel/pid.c
constexpr pid_t kUsualLimit = 32'768;  // PID_MAX_DEFAULT
constexpr pid_t kMostTries = 32;
constexpr char kOtherwise[] = ", or use a node whose telepad is root's";

// What the new pid 1 says of its /proc, or the errno of making it.
int try_clone(int flags) {
  // Without an exit signal, as in probe_tries.cc.
  long pid = ::syscall(SYS_clone, flags, 0, 0, 0, 0);
  if (pid < 0) return errno;
  if (pid == 0) ::_exit(mount_own_proc());
  int status = 0;
  while (::waitpid(static_cast<pid_t>(pid), &status, __WALL) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : EPERM;
}

// In this process's pid namespace.
pid_t read_last_pid() {
  const std::string text = try_read_system_file(kLastPidPath);
  return text.empty() ? 0 : static_cast<pid_t>(parse_decimal(text, kLastPidPath));
}

// Of a root that is now another mount namespace's. A path leads from it to what can be seen of it
// here, so there is none from the top (d_path() in fs/d_path.c); or errno is EXDEV.
bool is_top_of_its_mounts(int root) {
  char name[32] = "/proc/self/fd/";
  std::to_chars(name + std::strlen(name), name + sizeof(name) - 1, root);
  char path[2];
  const ssize_t length = ::readlink(name, path, sizeof path);
  if (length == 1) return true;
  if (length > 1) errno = EXDEV;
  return false;
}

}  // namespace

NextId::NextId(pid_t id)
    : file_(open_file(kLastPidPath, O_WRONLY)), before_(read_system_file(kLastPidPath)) {
  const std::string text = std::to_string(id - 1);
  if (::write(file_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    throw_errno(fmt::format("asking for the id {}", id));
  }
}

// The same was permitted before. A file of sysctl(2) takes a number from its beginning alone.
NextId::~NextId() {
  [[maybe_unused]] const ssize_t done = ::pwrite(file_.get(), before_.data(), before_.size(), 0);
}

// Nothing is written, which is permitted or not as something is.
bool may_set_next_id() {
  const UniqueFd file(::open(kLastPidPath, O_WRONLY | O_CLOEXEC));
  return file && ::write(file.get(), "", 0) == 0;
}

// Asks for this process's own number: permission is checked first (EPERM), then EEXIST.
bool may_choose_ids() {
  pid_t tid = ::getpid();
  CloneArgs args{.set_tid = reinterpret_cast<std::uint64_t>(&tid), .set_tid_size = 1};
  long pid = ::syscall(kNrClone3, &args, sizeof args);
  return pid < 0 && errno == EEXIST;
}

bool may_choose_ids(pid_t pid) {
  constexpr std::uint64_t kEnough =
      std::uint64_t{1} << CAP_SYS_ADMIN | std::uint64_t{1} << kCapCheckpointRestore;
  return (read_status(pid).cap_effective & kEnough) != 0;
}

int try_pid_namespace() {
  int error = try_clone(CLONE_NEWPID);
  return error == EPERM ? try_clone(CLONE_NEWPID | CLONE_NEWUSER) : error;
}

bool has_stretch(std::uint32_t start) {
  return start > 1 && start + std::uint64_t{kIdStretch} <= read_pid_max();
}

pid_t choose_stretch(pid_t last, pid_t limit, unsigned salt,
                     const std::function<bool(pid_t)>& is_taken) {
  const pid_t count = (limit - kReservedIds) / kIdStretch;
  if (count < 1) return 0;
  const pid_t half = std::max(count / 2, 1);
  const pid_t last_one = std::clamp((last - kReservedIds) / kIdStretch, 0, count - 1);
  auto start_of = [&](pid_t tried) {
    const auto from =
        static_cast<pid_t>((salt + static_cast<unsigned>(tried)) % static_cast<unsigned>(half));
    return kReservedIds + (last_one + count / 4 + from) % count * kIdStretch;
  };
  auto is_free = [&](pid_t start) {
    for (pid_t id = start; id < start + kIdStretch; ++id) {
      if (is_taken(id)) return false;
    }
    return true;
  };
  for (pid_t tried = 0; tried < std::min(half, kMostTries); ++tried) {
    if (is_free(start_of(tried))) return start_of(tried);
  }
  return start_of(0);
}

std::vector<pid_t> choose_ids_for(pid_t pid) {
  const std::vector<pid_t> ids = read_status(pid).ns_pids;
  // In a namespace below this process's own it is not known which are taken.
  const bool is_own = ids.size() == 1;
  const pid_t last = is_own ? read_last_pid() : ids.back();
  auto is_taken = [is_own](pid_t id) { return is_own && (::getpgid(id) >= 0 || errno != ESRCH); };
  const auto highest = static_cast<pid_t>(read_pid_max());
  std::vector<pid_t> limits = {highest};
  if (highest > kUsualLimit) limits.push_back(kUsualLimit);
  std::vector<pid_t> starts;
  for (pid_t limit : limits) {
    const pid_t start = choose_stretch(last, limit, static_cast<unsigned>(pid), is_taken);
    if (start != 0) starts.push_back(start);
  }
  return starts;
}

int mount_own_proc() {
  const int root = ::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0) return errno;
  bool done = ::unshare(CLONE_NEWNS) == 0 &&
              ::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) == 0 &&
              is_top_of_its_mounts(root) &&
              ::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) == 0;
  const int error = done ? 0 : errno;
  ::close(root);
  return error;
}

UserNamespaceBar user_namespace_bar(std::uint64_t max_user_namespaces, bool unprivileged_clone,
                                    bool restricted_by_apparmor) {
  if (max_user_namespaces == 0) return UserNamespaceBar::kLimit;
  if (!unprivileged_clone) return UserNamespaceBar::kDebian;
  return restricted_by_apparmor ? UserNamespaceBar::kAppArmor : UserNamespaceBar::kNone;
}

UserNamespaceBar read_user_namespace_bar() {
  return user_namespace_bar(read_max_user_namespaces(), read_unprivileged_userns_clone(),
                            read_apparmor_restricts_userns());
}

std::string explain_no_pid_namespace(int error, UserNamespaceBar bar) {
  if (error == EXDEV) {
    return "telefork runs in a chroot here, where no path of another mount namespace can be told; "
           "have it in a root of its own (pivot_root(2)), as containers do";
  }
  switch (bar) {
    case UserNamespaceBar::kLimit:
      return fmt::format(
          "user namespaces are switched off here (user.max_user_namespaces is 0); have root set "
          "that to 10000{}",
          kOtherwise);
    case UserNamespaceBar::kDebian:
      return fmt::format(
          "user namespaces are for root alone here (kernel.unprivileged_userns_clone is 0); have "
          "root set that to 1{}",
          kOtherwise);
    case UserNamespaceBar::kAppArmor:
      return fmt::format(
          "AppArmor lets no plain user have user namespaces here "
          "(kernel.apparmor_restrict_unprivileged_userns is 1); have root set that to 0{}",
          kOtherwise);
    case UserNamespaceBar::kNone:
      break;
  }
  if (error == ENOSPC) {
    return fmt::format(
        "there are as many user or pid namespaces as may be here; have root raise "
        "user.max_user_namespaces and user.max_pid_namespaces{}",
        kOtherwise);
  }
  return fmt::format(
      "no pid namespace can be made here ({}), as in many containers; have it allowed{}",
      ::strerrordesc_np(error), kOtherwise);
}

}  // namespace telefork::kernel
