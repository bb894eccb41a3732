// What threads have each for themselves, and a captured process once: where they differ in it the
// process cannot travel whole.
#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>
#include <set>

#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/root_directory.h"
#include "capture/survey.h"
#include "kernel/task_flags.h"

namespace telefork::capture {
namespace {

// Those that one thread alone can leave (unshare(2), setns(2)); the mount namespace goes with the
// directories.
constexpr const char* kNamespaces[] = {
    "net", "ipc", "uts", "cgroup", "pid_for_children", "time_for_children"};

// Empty where the kernel has no such namespace, and where the thread is ending.
std::string try_read_ns_link(pid_t tid, const char* name) {
  try {
    return kernel::read_ns_link(tid, name);
  } catch (const Error& error) {
    if (error.error() != ENOENT) throw;
    return "";
  }
}

// Empty to whoever may look at it but not trace it, as Yama has it before a call has named its
// tracer: when it is frozen it is read again.
std::optional<unsigned> try_read_personality(pid_t tid) {
  try {
    return kernel::read_personality(tid);
  } catch (const Error& error) {
    if (error.error() != EACCES && error.error() != EPERM) throw;
    return std::nullopt;
  }
}

// From PF_EXITING on a thread lets go of one thing after the other, which is no difference.
bool is_ending(pid_t tid) {
  kernel::Stat stat = kernel::read_stat(tid);
  return stat.state == 'Z' || stat.state == 'X' || (stat.flags & kernel::kPfExiting) != 0;
}

bool has_gone(pid_t tid) {
  try {
    return is_ending(tid);
  } catch (const Error& error) {
    if (error.code() != Code::kGone && error.error() != ENOENT) throw;
    return true;
  }
}

std::string subject(const kernel::Status& first, const std::vector<pid_t>& tids) {
  std::string others = tids.size() == 1 ? "" : fmt::format(" and {} others", tids.size() - 1);
  if (tids.size() == 2) others = " and another one";
  return fmt::format("thread {}{} of process {} ({})", tids.front(), others, first.pid, first.name);
}

class Comparison {
 public:
  Comparison(Purpose purpose, ThreadParts parts, const kernel::Status& first, ThreadSurvey& found)
      : compares_privileges_(purpose != Purpose::kReturn),
        whole_(moves_whole(purpose)),
        parts_(parts),
        first_(first),
        found_(found) {
    if (parts_ == ThreadParts::kOwn) return;
    personality_ = try_read_personality(first.pid);
    for (const char* name : kNamespaces) {
      namespaces_.push_back(try_read_ns_link(first.pid, name));
    }
  }

  void look_at(pid_t tid) {
    std::string different;
    bool filtered = false;
    if (parts_ != ThreadParts::kAlike) {
      const kernel::Status status = kernel::read_status(tid);
      filtered = status.seccomp != 0 && first_.seccomp == 0;
      note_privileges(tid, status, different);
      note_as_far_as_seen(different, [&] { note_shared(tid, status, different); });
    }
    if (parts_ != ThreadParts::kOwn) {
      note_as_far_as_seen(different, [&] { note_what_is_alike(tid, different); });
    }
    if ((different.empty() && !filtered) || is_ending(tid)) return;
    if (filtered) filtered_.push_back(tid);
    if (!different.empty()) different_[different].push_back(tid);
  }

  // Threads that differ in the same are told in one line: there may be thousands.
  void tell() const {
    if (!filtered_.empty()) {
      found_.refusals.push_back(refuse(subject(first_, filtered_), Reason::kSeccomp));
    }
    for (const auto& [what, tids] : different_) {
      found_.refusals.push_back(refuse(subject(first_, tids), Reason::kThreadDiffers, what));
    }
  }

 private:
  static void note(bool same, const std::string& what, std::string& list) {
    if (!same) list += (list.empty() ? "" : ", ") + what;
  }

  void note_privileges(pid_t tid, const kernel::Status& status, std::string& list) {
    const kernel::Status& first = first_;
    const bool own_credentials = take_own_credentials(tid, status);
    note(own_credentials || has_same_ids(status), "user and group ids", list);
    // A call does not bring them home, whichever thread changes them.
    if (!compares_privileges_) return;
    note(own_credentials || has_same_capabilities(status), "capabilities", list);
    note(status.no_new_privs == first.no_new_privs, "no_new_privs", list);
    note(first.seccomp == 0 ||
             (status.seccomp == first.seccomp && status.seccomp_filters == first.seccomp_filters),
         "seccomp filters", list);
  }

  // Of a thread that has become another user's no more may be seen.
  template <class Look>
  static void note_as_far_as_seen(const std::string& list, Look look) {
    try {
      look();
    } catch (const Error& error) {
      bool forbidden = error.error() == EACCES || error.error() == EPERM;
      if (list.empty() || !forbidden) throw;
    }
  }

  void note_shared(pid_t tid, const kernel::Status& status, std::string& list) {
    note(shares(KCMP_FS, tid, status) || take_own_directories(tid), "directories and umask", list);
    note(shares(KCMP_FILES, tid, status), "descriptors", list);
  }

  void note_what_is_alike(pid_t tid, std::string& list) const {
    note(whole_ || !personality_ || kernel::read_personality(tid) == *personality_, "personality",
         list);
    for (std::size_t i = 0; i < namespaces_.size(); ++i) {
      note(try_read_ns_link(tid, kNamespaces[i]) == namespaces_[i],
           fmt::format("{} namespace", kNamespaces[i]), list);
    }
  }

  // It can be given its own again by itself, where it shares them with no other thread, and its
  // root directory is the first one's or has a path.
  bool take_own_directories(pid_t tid) {
    const auto is_another = [tid](pid_t other) {
      return ::syscall(SYS_kcmp, tid, other, KCMP_FS, 0, 0) > 0;
    };
    std::set<pid_t>& own = found_.own_directories;
    if (!whole_ || is_ending(tid) || !is_another(first_.pid) ||
        !std::all_of(own.begin(), own.end(), is_another) ||
        (kernel::read_root_link(tid) != kernel::read_root_link(first_.pid) && !has_path(tid)) ||
        kernel::read_ns_link(tid, "mnt") != kernel::read_ns_link(first_.pid, "mnt")) {
      return false;
    }
    own.insert(tid);
    return true;
  }

  static bool has_path(pid_t tid) {
    const RootKind kind = find_root_directory(tid).kind;
    return kind == RootKind::kOurs || kind == RootKind::kOther;
  }

  bool has_same_ids(const kernel::Status& status) const {
    const kernel::Status& first = first_;
    return status.uids == first.uids && status.gids == first.gids && status.groups == first.groups;
  }

  // It is made by the first one there, as which it begins: what that one may become it may.
  bool take_own_credentials(pid_t tid, const kernel::Status& status) {
    constexpr std::uint64_t kChanges =
        (1ULL << CAP_SETUID) | (1ULL << CAP_SETGID) | (1ULL << CAP_SETPCAP);
    const kernel::Status& first = first_;
    const std::uint64_t needed = status.cap_permitted | status.cap_inheritable;
    if (!whole_ || (first.cap_effective & kChanges) != kChanges ||
        (needed & ~first.cap_permitted) != 0 || status.cap_bounding != first.cap_bounding) {
      return false;
    }
    if (!has_same_ids(status) || !has_same_capabilities(status)) {
      found_.own_credentials.insert(tid);
    }
    return true;
  }

  bool has_same_capabilities(const kernel::Status& status) const {
    const kernel::Status& first = first_;
    return status.cap_inheritable == first.cap_inheritable &&
           status.cap_permitted == first.cap_permitted &&
           status.cap_effective == first.cap_effective &&
           status.cap_bounding == first.cap_bounding && status.cap_ambient == first.cap_ambient;
  }

  bool shares(int what, pid_t tid, const kernel::Status& status) const {
    long order = ::syscall(SYS_kcmp, first_.pid, tid, what, 0, 0);
    if (order >= 0) return order == 0;
    int error = errno;
    if (error == ENOSYS) return looks_shared(what, tid, status);
    throw_errno(fmt::format("comparing thread {} with the first of process {}", tid, first_.pid),
                error, error == ESRCH ? Code::kGone : Code::kFailed);
  }

  // Without kcmp(2): what is alike may be two for all that.
  bool looks_shared(int what, pid_t tid, const kernel::Status& status) const {
    if (what == KCMP_FILES) return kernel::list_fds(tid) == kernel::list_fds(first_.pid);
    return status.umask == first_.umask &&
           kernel::read_cwd_link(tid) == kernel::read_cwd_link(first_.pid) &&
           kernel::read_root_link(tid) == kernel::read_root_link(first_.pid);
  }

  const bool compares_privileges_;
  const bool whole_;
  const ThreadParts parts_;
  const kernel::Status& first_;
  ThreadSurvey& found_;
  std::optional<unsigned> personality_;
  std::vector<std::string> namespaces_;
  std::vector<pid_t> filtered_;
  std::map<std::string, std::vector<pid_t>> different_;
};

}  // namespace

ThreadSurvey survey_threads(Purpose purpose, const kernel::Status& first,
                            std::span<const pid_t> threads, ThreadParts parts) {
  ThreadSurvey found;
  Comparison comparison(purpose, parts, first, found);
  for (pid_t tid : threads) {
    if (tid == first.pid) continue;
    try {
      comparison.look_at(tid);
    } catch (const Error&) {
      // A running process ends threads; what is gone need not be alike. Some files of one that has
      // just gone may not be read (proc_ns_readlink in fs/proc/namespaces.c).
      if (!has_gone(tid)) throw;
    }
  }
  comparison.tell();
  return found;
}

}  // namespace telefork::capture
