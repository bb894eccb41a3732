// What the floors of a transfer share: a process whose memory is carried, and the place where it
// arrives. Each floor adds its own way between the two.
//
//     Source -- read_piece(), 1 MB --> make_buffer()   ...   Staging -- put_in_place() --> there
#pragma once

#include <sys/types.h>

#include <cstddef>

#include "measure.h"

namespace telefork::bench {

constexpr std::size_t kPiece = 1024 * 1024;

// A child that is killed when this process ends, however that happens. 0 in the child.
pid_t fork_bound_child();

// A child with touched memory: a process may always read its child's memory. Ends with the object.
class Source {
 public:
  Source(std::size_t size, Pages pages);
  ~Source();
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  pid_t pid() const { return pid_; }
  const std::byte* memory() const { return memory_; }

 private:
  pid_t pid_ = 0;
  const std::byte* memory_ = nullptr;
};

// Room for one piece: present, and never shared with a child, which would have every write to it
// fault.
std::byte* make_buffer();

void read_piece(pid_t source, const std::byte* from, std::byte* to, std::size_t size);

// Huge pages that whoever receives into them makes; all in one mremap into place in the end. Never
// freed: the receiver is a process that ends.
class Staging {
 public:
  explicit Staging(std::size_t size);
  std::byte* data() const { return staging_; }
  void put_in_place();

 private:
  std::byte* staging_;
  std::byte* place_;
  std::size_t size_;
};

// Ends the program unless the child ended with 0.
void reap(pid_t pid);

}  // namespace telefork::bench
