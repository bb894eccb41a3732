// Shared memory of System V, made anew: with its id, which programs keep, and its key. The segments
// are this process's work, the guest only attaches them.
//
//     Segments segments;
//     segments.get(record);       // made at first
//     ... every process attaches it ...
//     segments.keep();            // they are the guest's; else the destructor removes them
#pragma once

#include <map>
#include <optional>
#include <string>

#include "image/image.capnp.h"

namespace telefork::restore {

// What of this machine's is in the way of one with such an id and key.
struct SegmentInTheWay {
  const char* name;         // "id", "key": what it has taken
  int id = 0;               // its own
  std::string description;  // "id 5 (8192 bytes, made by process 77, of user 0, attached by 2)"
};
std::optional<SegmentInTheWay> find_segment_in_the_way(image::schema::Segment::Reader wanted);
// Whether this process may say which id one gets.
bool may_choose_segment_ids();

class Segments {
 public:
  Segments() = default;
  Segments(const Segments&) = delete;
  Segments& operator=(const Segments&) = delete;
  ~Segments();
  // Its id. Throws kRefused where its id or its key cannot be had here. `huge_shift`: that of its
  // pages (vma_rules.h); 0: they are small.
  int get(image::schema::Segment::Reader record, unsigned huge_shift);
  // Marks those for destruction that were. What has not been kept by then is nobody's.
  void keep();

 private:
  std::map<int, bool> made_;  // by id: whether it is marked
};

}  // namespace telefork::restore
