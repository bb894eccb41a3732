// What is done with another root directory (chroot(2)) than this process's: for a path that is one
// in there, and is kept as it is given, as that of a unix socket.
//
//     int error = run_in_root("/jail", [&] { return bind_to("/run/socket") ? 0 : errno; });
//
// A thread does it that has directories of its own, and gets no signals; it takes CAP_SYS_CHROOT.
#pragma once

#include <functional>
#include <string>

namespace telefork::restore {

// Empty: it is done at once. What `act` has returned, 0 or an errno; or why it could not be done.
int run_in_root(const std::string& root, const std::function<int()>& act);

}  // namespace telefork::restore
