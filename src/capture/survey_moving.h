// Descriptors that can only move with the whole process: pipes, eventfds, epolls and the like,
// memory files, files without a name. Each is looked at here for whether all that it is made of
// moves, that is, whether no process has it that stays.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <variant>

#include "capture/open_file.h"
#include "capture/survey.h"

namespace telefork::capture {

struct Obstacle {
  Reason reason;
  std::string detail;
};
using Sorted = std::variant<Description, Obstacle>;

// `description` has what is the same for every kind.
class MovingDescriptors {
 public:
  explicit MovingDescriptors(Survey& survey);

  // What is neither a regular file, a directory nor a device.
  Sorted sort(const OpenFile& open, Description description);
  // A file that moves itself: of `content`.
  Sorted sort_file(const OpenFile& open, Description description, FileEntry::Content content);
  // Whether both ends of a pipe are here, and nowhere else.
  bool has_both_ends(const OpenFile& open);
  // Whether it is an end of a pseudo-terminal that is here as a whole, and nowhere else.
  bool has_both_sides(const OpenFile& open);
  // Whether the other end of a unix socket is here.
  bool has_own_peer(const OpenFile& open);
  // When all are sorted, of all processes that move together: what the epolls watch.
  void settle_epolls(std::span<Survey* const> members);
  // Likewise: who is connected with whom.
  void settle_sockets();
  // Likewise: what is open nowhere, and only on its way in a socket.
  void settle_in_flight();

 private:
  Sorted sort_pipe(const OpenFile& open, Description description);
  Sorted sort_inotify(const OpenFile& open, Description description);
  // survey_ptys.cc
  struct PtyEnd;
  std::optional<PtyEnd> find_pty(const OpenFile& open);
  const std::map<unsigned, OutsideHolders::Place>& masters();
  std::optional<Obstacle> look_at_new_pty(PtyObject& pty);
  pid_t holder_of_pty(const PtyObject& pty);
  Sorted sort_pty(const OpenFile& open, Description description);
  // survey_sockets.cc
  Sorted sort_socket(const OpenFile& open, Description description);
  Sorted sort_pidfd(const OpenFile& open, Description description);
  SocketObject* find_socket(std::uint32_t inode);
  void settle_waiting(const Description& listener);
  bool may_have_peer_in_flight(const SocketObject& object);
  bool can_be_connected_again(SocketObject& one, SocketObject& other);
  pid_t holder_of(const OpenFile& open);
  void settle(Description& epoll, const Survey& holder);

  Survey& survey_;
  std::map<std::string, std::size_t> pipes_;                          // by link
  std::optional<std::map<unsigned, OutsideHolders::Place>> masters_;  // by number
};

}  // namespace telefork::capture
