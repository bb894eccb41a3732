#include "session/become_user.h"

#include <linux/capability.h>
#include <cerrno>

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/abi.h"

namespace telefork::session {

User find_user(uid_t uid) {
  const passwd* entry = ::getpwuid(uid);
  if (entry == nullptr) {
    throw Error(Code::kRefused, fmt::format("there is no user {} on this machine", uid));
  }
  User user{uid, entry->pw_gid, {}};
  int count = 64;
  user.groups.resize(static_cast<std::size_t>(count));
  while (::getgrouplist(entry->pw_name, entry->pw_gid, user.groups.data(), &count) < 0) {
    user.groups.resize(static_cast<std::size_t>(count));
  }
  user.groups.resize(static_cast<std::size_t>(count));
  return user;
}

int become_user(const User& user) noexcept {
  constexpr unsigned kCapability = kernel::kCapCheckpointRestore;
  if (::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return errno;
  if (::setgroups(user.groups.size(), user.groups.data()) != 0) return errno;
  if (::setresgid(user.gid, user.gid, user.gid) != 0) return errno;
  if (::setresuid(user.uid, user.uid, user.uid) != 0) return errno;
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  std::uint32_t bit = 1u << (kCapability % 32);
  sets[kCapability / 32] = {bit, bit, bit};
  if (::syscall(SYS_capset, &header, sets) != 0) return errno;
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, kCapability, 0, 0) != 0) return errno;
  return 0;
}

}  // namespace telefork::session
