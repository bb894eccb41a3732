// Descriptors into a stopped process, through a Unix socket that it has an end of.
#pragma once

#include <span>
#include <vector>

#include "tracee/stub.h"

namespace telefork::tracee {

// Sends `fds` on `our_socket` and has the process receive them on its descriptor `their_socket`;
// their numbers there, in order, all close-on-exec. Any number may be given. Throws kResources
// where the process has no numbers left.
//
// With a farewell (Stub::set_farewell) the process is one that outlives its tracer: then it waits
// for them before they are sent, so that nothing is left in the socket, and closes them if the
// tracer dies; until another program is started on the stub.
std::vector<int> give_fds(Stub& stub, int our_socket, int their_socket, std::span<const int> fds);

}  // namespace telefork::tracee
