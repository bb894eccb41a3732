// Whether a process that arrives can have the ids that it had: where they are free by clone3(2)
// with set_tid, else in a pid namespace of its own, for which whoever is not root needs a user
// namespace.
//
//     if (!may_choose_ids() && try_pid_namespace() != 0) ... it cannot, and explain_...() says why
//
// Both are really tried: settings, containers and security modules forbid it in many ways. May be
// called with threads running; the child that tries is nobody's to wait for (see probe.h).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"

namespace telefork::kernel {

bool may_choose_ids();
// Whether another process of this one's user namespace may, which cannot be tried: by what it takes
// (clone3(2), set_tid).
bool may_choose_ids(pid_t pid);

// 0, or the errno of what stands in the way of a pid namespace with a /proc of its own. EPERM also
// where the child that tried was killed.
int try_pid_namespace();

// Who writes a number to it (class NextId) has the next ids of its own pid namespace given out
// behind that one, if it has CAP_CHECKPOINT_RESTORE over it and there is the file
// (CONFIG_CHECKPOINT_RESTORE).
inline constexpr char kLastPidPath[] = "/proc/sys/kernel/ns_last_pid";
bool may_set_next_id();
// The next process or thread there has `id`, if that is free and nobody begins another one before.
// At its end the ids go on where they were: others near this one may be free for the only reason
// that whoever has them is away.
class NextId {
 public:
  explicit NextId(pid_t id);
  ~NextId();
  NextId(const NextId&) = delete;
  NextId& operator=(const NextId&) = delete;

 private:
  UniqueFd file_;
  std::string before_;
};

// How many ids a stretch has.
inline constexpr pid_t kIdStretch = 256;
// Whether the ids of this machine have room for the one that begins there.
bool has_stretch(std::uint32_t start);

// The start of a stretch of ids between those that the kernel begins again with (300) and `limit`:
// far from `last`, which was given out last, so that they are not given out soon; others for
// another `salt`; and free, if one of those that are looked at is. 0: there is no room for one.
pid_t choose_stretch(pid_t last, pid_t limit, unsigned salt,
                     const std::function<bool(pid_t)>& is_taken);

// For a process that is to get ids elsewhere with which it may come here: starts of such stretches
// in the pid namespace of `pid`, the best first; the others are for where ids end earlier.
std::vector<pid_t> choose_ids_for(pid_t pid);

// In a process that has come into a pid namespace: a mount namespace, and in it the /proc of those
// pids. An errno, or 0. System calls only. EPERM where a part of /proc is hidden, as containers do;
// EXDEV after a chroot(2): seen from outside, paths in there would be the ones of the whole
// machine.
int mount_own_proc();

// What keeps a plain user from making user namespaces.
enum class UserNamespaceBar {
  kNone,      // no setting does
  kLimit,     // user.max_user_namespaces is 0
  kDebian,    // kernel.unprivileged_userns_clone is 0: a patch of Debian's
  kAppArmor,  // kernel.apparmor_restrict_unprivileged_userns is 1: a patch of Ubuntu's
};
UserNamespaceBar user_namespace_bar(std::uint64_t max_user_namespaces, bool unprivileged_clone,
                                    bool restricted_by_apparmor);
UserNamespaceBar read_user_namespace_bar();

// Why, and what helps, of an errno of try_pid_namespace().
std::string explain_no_pid_namespace(int error, UserNamespaceBar bar);

}  // namespace telefork::kernel
