// Shared memory of System V, made anew: with its id, which programs keep, and its key. The segments
// are this process's work, the guest only attaches them.
//
//     Segments segments;
//     segments.get(record);       // made at first
//     ... every process attaches it ...
//     segments.keep();            // they are the guest's; else the destructor removes them
#pragma once

#include <map>

#include "image/image.capnp.h"

namespace telefork::restore {

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
