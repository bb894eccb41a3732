// What a telepad holds between two run_on of a program: memory files (restore/kept_image.h), each
// under the name that its home gave it, for the user and the key that it came by.
//
//     images.put(owner, file);
//     UniqueFd file = images.take(owner);     // empty: it has none; whoever takes it may bring it
//     back images.tidy();                          // what is old, or in the way, goes
//
// Bounded by the settings; the one that was not used for the longest time goes first. All go when
// this machine, or the cgroup that we are in, is short of memory. Who has taken one has it to
// itself, and it counts here no more. Owned by the telepad's one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <list>
#include <optional>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "net/deadline.h"
#include "net/public_key.h"

namespace telefork::session {

struct KeepLimits {
  // Of all of them, in this machine's memory; 0: nothing is kept. Empty: a quarter of what there
  // is, or of what a memory cgroup leaves of it.
  std::optional<std::uint64_t> memory_kb;
  std::uint64_t images = 8;
  std::uint64_t seconds = 300;  // without use

  std::uint64_t memory_bytes() const;
};

class KeptImages {
 public:
  using Clock = net::Deadline::Clock;
  struct Owner {
    uid_t uid = 0;
    std::optional<net::PublicKey> key;  // of who came by one
    std::vector<std::byte> name;
    bool operator==(const Owner&) const = default;
  };

  explicit KeptImages(const KeepLimits& limits);

  // False: nothing is kept here.
  std::uint64_t most_bytes() const { return most_bytes_; }
  bool keeps() const { return most_bytes_ > 0 && limits_.images > 0; }
  void put(Owner owner, UniqueFd file);
  UniqueFd take(const Owner& owner);
  void tidy();
  // When to tidy() next, if ever.
  std::optional<Clock::time_point> next_turn() const;

 private:
  struct Image {
    Owner owner;
    UniqueFd file;
    std::uint64_t bytes;
    Clock::time_point since;
  };

  KeepLimits limits_;
  std::uint64_t most_bytes_;
  std::list<Image> images_;  // the oldest first
};

}  // namespace telefork::session
