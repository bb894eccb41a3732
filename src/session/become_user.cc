#include "session/become_user.h"

#include <linux/capability.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs_task.h"

namespace telefork::session {

std::optional<User> try_find_user(uid_t uid) {
  const passwd* entry = ::getpwuid(uid);
  if (entry == nullptr) return std::nullopt;
  User user{uid, entry->pw_gid, {}, entry->pw_name, entry->pw_dir};
  int count = 64;
  user.groups.resize(static_cast<std::size_t>(count));
  while (::getgrouplist(entry->pw_name, entry->pw_gid, user.groups.data(), &count) < 0) {
    user.groups.resize(static_cast<std::size_t>(count));
  }
  user.groups.resize(static_cast<std::size_t>(count));
  return user;
}

User find_user(uid_t uid) {
  if (std::optional<User> user = try_find_user(uid)) return *user;
  throw Error(Code::kRefused, fmt::format("there is no user {} on this machine", uid));
}

bool may_set_ids() {
  constexpr std::uint64_t kNeeded =
      (std::uint64_t{1} << CAP_SETUID) | (std::uint64_t{1} << CAP_SETGID);
  return (kernel::read_status(::getpid()).cap_effective & kNeeded) == kNeeded;
}

bool may_change_root() {
  return (kernel::read_status(::getpid()).cap_effective >> CAP_SYS_CHROOT & 1) != 0;
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

int drop_lent_capability() noexcept {
  constexpr unsigned kCapability = kernel::kCapCheckpointRestore;
  if (::geteuid() == 0) return 0;
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, kCapability, 0, 0) != 0) return errno;
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  if (::syscall(SYS_capget, &header, sets) != 0) return errno;
  __user_cap_data_struct& set = sets[kCapability / 32];
  const std::uint32_t others = ~(1u << (kCapability % 32));
  set.effective &= others;
  set.permitted &= others;
  set.inheritable &= others;
  if (::syscall(SYS_capset, &header, sets) != 0) return errno;
  return 0;
}

std::vector<std::string> environment_of(const User& user, char* const* own) {
  constexpr std::array kPersonal = {"HOME=",   "USER=", "LOGNAME=", "MAIL=",         "XDG_",
                                    "TMPDIR=", "SSH_",  "DISPLAY=", "DBUS_SESSION_", "SHELL="};
  std::vector<std::string> environment;
  if (!user.name.empty()) {
    environment = {"HOME=" + user.home, "USER=" + user.name, "LOGNAME=" + user.name};
  }
  for (char* const* entry = own; *entry != nullptr; ++entry) {
    std::string_view text = *entry;
    if (std::none_of(kPersonal.begin(), kPersonal.end(),
                     [&](const char* prefix) { return text.starts_with(prefix); })) {
      environment.emplace_back(text);
    }
  }
  return environment;
}

int become_nobody() noexcept {
  constexpr uid_t kNobody = 65534;  // the kernel's overflow id, and Debian's account
  if (::geteuid() == 0) {
    if (::setgroups(0, nullptr) != 0) return errno;
    if (::setresgid(kNobody, kNobody, kNobody) != 0) return errno;
    if (::setresuid(kNobody, kNobody, kNobody) != 0) return errno;
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (::syscall(SYS_capset, &header, none) != 0) return errno;
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
  // Of nobody there may be other processes, which could else trace this one.
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return errno;
  return 0;
}

}  // namespace telefork::session
