// Which open file descriptions of a guest are those that it came with, whatever numbers they have
// by now. On the way home these are home's own, and nothing is opened for them.
//
//     Origins origins(guest, files);           // it is whole, and has not run yet
//     ... it runs ...
//     origins.find(fd, info)                   // the frozen guest's; empty: it was opened there
//
// Neither the number tells, behind which another file may be open by now, nor the file, which may
// have been opened again. A copy of each description that is held here would, by kcmp(2), but what
// the guest closes would stay open then: what it locked with flock(2) would be locked, and a file
// that it wrote could not be executed. So each description has a mark in itself, which goes with
// it: its signal, F_SETSIG. Of these kinds of files only leases and F_NOTIFY ever send it.
//
// Held is what cannot be marked: with O_PATH, since nothing depends on its being closed; and of one
// file what more than 64 descriptions are open of.
//
// Owned by the thread that restored the guest.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "image/image.capnp.h"
#include "kernel/procfs_file.h"

namespace telefork::capture {

struct Origin {
  std::uint32_t description = 0;  // its place among those of the way there
  image::schema::FileDescription::Kind kind;
};

class Origins {
 public:
  // `files`: what it was made of.
  Origins(pid_t guest, image::schema::Files::Reader files);

  std::optional<Origin> find(int fd, const kernel::FdInfo& info) const;

 private:
  // What stays the same of a description: where it was opened, as fdinfo has it.
  using Place = std::pair<int, std::uint64_t>;
  struct Held {
    UniqueFd file;
    Origin origin;
  };
  void add(int fd, Origin origin);
  // The first that is not before it, in the kernel's own order.
  std::vector<Held>::const_iterator find_held(pid_t pid, int fd) const;

  pid_t guest_;
  std::map<Place, std::size_t> used_;  // how many marks
  std::map<std::tuple<int, std::uint64_t, int>, Origin> marked_;
  std::vector<Held> held_;  // in that order
};

}  // namespace telefork::capture
