// The stdin of a process that has come home with some of it unread, which cannot be put back into a
// pipe or terminal: the process reads from a pipe, into which goes first that and then what comes.
#pragma once

#include <cstddef>
#include <functional>
#include <span>

#include "base/unique_fd.h"

namespace telefork::session {

// Until `source` ends, or nobody reads `sink` any more. An empty source: nothing comes behind
// `first`. `may_read` as HomeOptions::may_read_input. Takes no more from the source than the pipe
// has room for. The process must ignore SIGPIPE.
void carry_input(UniqueFd source, std::span<const std::byte> first, UniqueFd sink,
                 const std::function<bool()>& may_read);

}  // namespace telefork::session
