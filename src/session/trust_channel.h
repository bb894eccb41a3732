// Whether the key that began a session may still have it. The telepad alone can tell, which reads
// trusted_keys; the keeper, as whatever user, alone knows whether the session has begun its work.
//
//   telepad                                     keeper, which has no task yet
//     the list has changed: the key is not in it --why--> ends: the next call begins a session anew
//                                     <--question--  a task has come
//     is the key in the list?          --yes, why-->  before anything of it runs
//     it has ended                                    ends, where it has no task yet
//
// Both ends of one SOCK_SEQPACKET pair, a message each. A session that works is not ended.
// Connections that join the session come the same way, each with the secret that it is to prove; so
// do those that take the place of a lost one, of a client that has proven its key and the token.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "base/unique_fd.h"
#include "net/deadline.h"
#include "protocol/handshake.h"

namespace telefork::session {

// The telepad's end. None of it waits or throws: a keeper that has ended needs no answer.
class TrustChannel {
 public:
  // Takes a question, if there is one. False: nobody is at the other end any more.
  static bool try_take_question(int channel, bool& asked);
  // `why` not: kUnauthorised's text.
  static void send_verdict(int channel, const std::optional<std::string>& why);
  // Throws where the keeper does not take it.
  static void send_resumption(int channel, int connection, bool pages);
};

// The keeper's.
class TrustAsker {
 public:
  struct Join {
    UniqueFd connection;
    std::array<std::byte, protocol::kJoinSecretSize> secret;
  };

  // It has said its hello, and waits for the reply.
  struct Resumption {
    UniqueFd connection;
    bool pages = false;  // it is the page connection's; else the control connection's
  };

  TrustAsker() = default;
  explicit TrustAsker(UniqueFd channel) : channel_(std::move(channel)) {}

  int fd() const { return channel_.get(); }
  // What came unasked: throws kUnauthorised with it, and keeps a connection that has joined. False:
  // nobody is there any more to say it.
  bool take_word();
  // One that has joined, and was not taken yet.
  std::optional<Join> take_join() { return std::exchange(join_, std::nullopt); }
  std::optional<Resumption> take_resumption() { return std::exchange(resumption_, std::nullopt); }
  void ask();
  // The answer: throws what it says against it, kLost when none comes. Without a channel, none.
  void await_answer(net::Deadline deadline);

 private:
  std::string receive();

  UniqueFd channel_;
  std::optional<Join> join_;
  std::optional<Resumption> resumption_;
};

}  // namespace telefork::session
