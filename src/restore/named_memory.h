// Shared memory with a name in /dev/shm, made anew. Where the name is there already it has to be
// that very memory: of a process that stands still meanwhile, then both have it; or left behind by
// one that was saved and has ended, then it is filled again.
//
//     NamedMemory named(live);           // whether the one that is captured is there still
//     NamedMemory::File file = named.make(record);
//     if (file.is_new) ...               // fill it
//     named.keep();                      // they are the guest's; else the destructor removes them
#pragma once

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "image/image.capnp.h"

namespace telefork::restore {

class NamedMemory {
 public:
  explicit NamedMemory(bool live) : live_(live) {}
  NamedMemory(const NamedMemory&) = delete;
  NamedMemory& operator=(const NamedMemory&) = delete;
  ~NamedMemory();

  struct File {
    UniqueFd file;
    bool is_new;
  };
  // Throws kRefused where the name is another's, or the owner cannot be had.
  File make(image::schema::FileContent::Reader record);
  void keep() { made_.clear(); }

 private:
  bool live_;
  std::vector<std::string> made_;
};

}  // namespace telefork::restore
