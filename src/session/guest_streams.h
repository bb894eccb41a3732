// The standard streams of a guest, as far as home carries them: a pipe each, of which the guest has
// one end and its keeper the other.
//
// Not for more than one thread at once.
#pragma once

#include <cstdint>
#include <map>

#include "base/unique_fd.h"
#include "protocol/messages.capnp.h"

namespace telefork::session {

struct GuestStreams {
  // As home asks for them: those that are useless there become useless here. Throws kOs.
  void make(protocol::schema::Streams::Reader asked);
  // Of the pipes, by the number of the stream: fstat(2)'s st_ino.
  std::map<unsigned, std::uint64_t> inodes() const;

  // Indexed by the number of the stream; empty where there is none. Whoever needs them takes them.
  UniqueFd of_guest[3];
  UniqueFd of_keeper[3];
};

}  // namespace telefork::session
