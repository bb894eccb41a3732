// The standard streams of one guest, at either end of its link. Give it to the poll loop that also
// owns the link:
//
//     StdioPump pump = ...;                        // keeper: senders 1 and 2, receiver 0
//     for (;;) {                                   // home: sender 0, receivers 1 and 2
//       std::vector<pollfd> entries = link.poll_entries();
//       pump.add_interest(entries);
//       ...poll...
//       pump.on_ready(entries);
//       while (auto message = link.try_receive())
//         if (!pump.on_message(*message)) ...it is not of stdio...
//     }
//
// All output goes home before the status is delivered:
//     keeper: the guest ended -> begin_drain(); loop until drained(); then send the status. What a
//             descendant writes later is carried on until its pipe ends.
//     home:   the status came (behind the last output, in order) -> loop until idle(); then end.
//
// Owned by one thread; the Link must outlive it.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "proxy/stdio.h"

namespace telefork::proxy {

class StdioPump {
 public:
  static constexpr unsigned kStreams = 3;

  // At home: the user's descriptors, duplicated or taken. Empty ones are not carried: what comes
  // for them is thrown away, and the guest is told that nobody reads.
  static StdioPump at_home(protocol::Link& link, UniqueFd in, UniqueFd out, UniqueFd err);
  // At the keeper: its ends of the guest's pipes. An empty `in`: the guest has /dev/null.
  static StdioPump at_keeper(protocol::Link& link, UniqueFd in, UniqueFd out, UniqueFd err);

  void add_interest(std::vector<pollfd>& entries) const;
  // Looks only at those entries that are its own.
  void on_ready(std::span<const pollfd> entries);
  // Whether it was a message of stdio; kCorrupt when it names a stream that cannot be.
  bool on_message(const protocol::ReceivedMessage& message);

  // Stops and starts reading home's stdin.
  void set_input_paused(bool paused);

  void begin_drain();
  bool drained() const;
  // Everything that came was written.
  bool idle() const;
  // What of that could not be written though there was somebody to read it: "writing its stdout".
  std::optional<Error> loss() const;
  // What came for stdin and is not in the guest's pipe yet; it stays.
  std::vector<std::byte> undelivered_input() const;
  // Whether the guest has closed stream `number`, or never had it.
  bool closed_by_guest(unsigned number) const;
  // Nothing more will be read here: every sender came to its end.
  bool senders_ended() const;

 private:
  explicit StdioPump(protocol::Link& link) : link_(&link) {}
  struct Stream {
    std::optional<StdioSender> sender;
    std::optional<StdioReceiver> receiver;
  };
  Stream& stream(unsigned number);
  void on_data(unsigned number, std::span<const std::byte> bytes);

  protocol::Link* link_;
  Stream streams_[kStreams];
};

}  // namespace telefork::proxy
