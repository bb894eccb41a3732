// Gives up root for good.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace telefork::session {

struct User {
  uid_t uid;
  gid_t gid;
  std::vector<gid_t> groups;
  std::string name;
  std::string home;
};

// Empty where there is no such account.
std::optional<User> try_find_user(uid_t uid);
// Throws kRefused then.
User find_user(uid_t uid);
// Keeps CAP_CHECKPOINT_RESTORE, which is what it takes to give a restored process its pid. 0 or an
// errno; system calls only, for use between fork and exec.
int become_user(const User& user) noexcept;
// For a child of such a one, which is about to run what is not telefork's: it has none of it, nor
// what it execs. Of root it changes nothing. 0 or an errno; system calls only.
int drop_lent_capability() noexcept;
// This process's environment, as that user's: what names files of his is his, or is not there. Who
// has no account has no name and no home.
std::vector<std::string> environment_of(const User& user, char* const* own);

// Whether this process may make one of any user.
bool may_set_ids();
// CAP_SYS_CHROOT.
bool may_change_root();

// For this process itself: it is nobody, with no capability, and gains none by an exec; nobody may
// look into it. Where it is no root it stays who it is otherwise. 0 or an errno.
int become_nobody() noexcept;

}  // namespace telefork::session
