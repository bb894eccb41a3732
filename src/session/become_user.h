// Gives up root for good, for a child that is about to exec.
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
};

// Throws kRefused where there is no such account.
User find_user(uid_t uid);
// Keeps CAP_CHECKPOINT_RESTORE, which is what it takes to give a restored process its pid. 0 or an
// errno; system calls only, for use between fork and exec.
int become_user(const User& user) noexcept;

}  // namespace telefork::session
