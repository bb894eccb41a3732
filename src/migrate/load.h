// A file to a process, or a tree of them: `telefork load`. The process that loads is the keeper and
// the guest's parent.
//
//     Load load(settings);
//     load.restore();             // the guest is whole, and stopped; it dies with this process
//     pid_t pid = load.release(); // it runs; the caller reaps it
//
// The guest has the pid and the thread ids that it was saved with: where one of them is taken, or
// may not be chosen, in a pid namespace of its own; where none can be made it is refused by name.
// Nothing is made either of an image that does not fit this machine or this C library; and nothing
// runs of one that is damaged, since the End is read before the guest is finished. An Error leaves
// nothing behind.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <sys/types.h>

#include "image/totals.h"
#include "restore/tree_restorer.h"

namespace telefork::migrate {

struct LoadSettings {
  std::string path;
  std::string blank_program;
  std::string init_program;  // of a pid namespace, where one has to be made
  bool cpu_force = false;
  bool libc_force = false;
  pid_t process_group = 0;  // for the guest to join; 0: one of its own
  UniqueFd streams[3];      // what the guest's standard streams become; empty: /dev/null
  std::function<void(const std::string&)> warn;
};

class Load {
 public:
  explicit Load(LoadSettings settings) : settings_(std::move(settings)) {}

  void restore();
  pid_t release();

  const image::Totals& totals() const { return totals_; }
  pid_t guest_pid() const { return guest_pid_; }

 private:
  LoadSettings settings_;
  image::Totals totals_;
  std::unique_ptr<restore::TreeRestorer> restorer_;
  std::optional<restore::PidNamespace> namespace_;  // while the guest runs
  pid_t guest_pid_ = 0;
};

}  // namespace telefork::migrate
