#include "session/guest_streams.h"

#include <utility>

#include <fcntl.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/unique_fd.h"

namespace telefork::session {

void GuestStreams::make(protocol::schema::Streams::Reader asked) {
  for (int stream = 0; stream < 3; ++stream) {
    if ((asked.getUseless() >> stream & 1U) == 0) continue;
    of_guest[stream] = open_file("/dev/null", stream == 0 ? O_WRONLY : O_RDONLY);
  }
  if (asked.getDirectory()) of_guest[0] = open_file("/", O_RDONLY | O_DIRECTORY);
  if (asked.getTakesStdin()) {
    auto [read_end, write_end] = make_pipe();
    of_guest[0] = std::move(read_end);
    of_keeper[0] = std::move(write_end);
  }
  for (unsigned stream : {1u, 2u}) {
    if (stream == 2 && asked.getJoinedOutput() && of_guest[1]) {
      of_guest[2] = of_guest[1].duplicate();
      continue;
    }
    if ((asked.getOpen() & (1u << stream)) == 0) continue;
    auto [read_end, write_end] = make_pipe();
    of_guest[stream] = std::move(write_end);
    of_keeper[stream] = std::move(read_end);
  }
}

std::map<unsigned, std::uint64_t> GuestStreams::inodes() const {
  std::map<unsigned, std::uint64_t> found;
  for (unsigned stream = 0; stream < 3; ++stream) {
    struct stat status;
    if (!of_keeper[stream]) continue;
    if (::fstat(of_keeper[stream].get(), &status) != 0) throw_errno("looking at a pipe");
    found[stream] = status.st_ino;
  }
  return found;
}

}  // namespace telefork::session
