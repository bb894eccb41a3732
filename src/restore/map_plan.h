// What has to happen to the memory map of a process for it to become that of an image: both cut
// into pieces, each of which lies in one VMA of either.
//
//   home    |--- anonymous ---|        |- library 1 -|  |- [heap] --|
//   image       |- anonymous ------|   |- library 2 -|  |- [heap] --------|
//   pieces  |rem|- keep ------| new|   |- replace ---|  |- keep ----| new |
//
// Pure.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "image/image.capnp.h"
#include "kernel/procfs_maps.h"
#include "restore/vma_rules.h"

namespace telefork::restore {

struct MapPiece {
  enum class Kind {
    kKeep,     // the same memory: what differs is changed in place
    kNew,      // nothing is there
    kReplace,  // something else is there
    kRemove,   // nothing is to be there
  };
  Kind kind;
  Range range;
  const kernel::Vma* home = nullptr;                  // null with kNew
  const image::schema::Vma::Reader* image = nullptr;  // null with kRemove

  // Of its first byte, in the file or the shared memory.
  std::uint64_t offset() const {
    return image->getOffset() + (range.start - RemotePtr(image->getStart()));
  }
  bool is_mapped_anew() const { return kind == Kind::kNew || kind == Kind::kReplace; }
};

// Both sorted; they must outlive the pieces. What the kernel has put there itself (vDSO, vvar)
// stays as it is at home, and so does what lies in `own`.
std::vector<MapPiece> plan_map(std::span<const kernel::Vma> home,
                               std::span<const image::schema::Vma::Reader> image,
                               std::span<const Range> own);

// Of shared memory that has no name: which of home's objects is which of the image's.
std::map<std::uint64_t, std::uint64_t> match_shared_memory(std::span<const MapPiece> pieces);

// How many VMAs there may be at a time while the one map becomes the other.
std::size_t most_vmas(std::span<const MapPiece> pieces);

}  // namespace telefork::restore
