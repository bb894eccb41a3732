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
#include <string>

namespace telefork::kernel {

bool may_choose_ids();

// 0, or the errno of what stands in the way of a pid namespace with a /proc of its own. EPERM also
// where the child that tried was killed.
int try_pid_namespace();

// In a process that has come into a pid namespace: a mount namespace, and in it the /proc of those
// pids. An errno, or 0. System calls only. EPERM where a part of /proc is hidden, as containers do.
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
