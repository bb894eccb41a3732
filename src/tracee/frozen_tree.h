// Stops a process and all that has come of it, and holds them stopped.
//
//     FrozenTree frozen = FrozenTree::freeze(pid, options_of, patience);
//     frozen.of(child).leader() ...
//     frozen.thaw();                       // also done by the destructor
//
// A process that is stopped has no more children, but may get those of another one that ends: all
// are frozen when a reading of everybody's children has nothing new. Those that have ended, and
// that nobody has waited for, are left as they are.
//
// If the tracer dies, the kernel lets all of them go on.
#pragma once

#include <cstdint>
#include <functional>
#include <set>
#include <vector>

#include <sys/types.h>

#include "tracee/freezer.h"

namespace telefork::tracee {

class FrozenTree {
 public:
  // PTRACE_O_* of each.
  using OptionsOf = std::function<std::uint64_t(pid_t)>;
  // For who traces some of them already: how one is frozen, and how it goes on.
  struct Ways {
    std::function<FrozenProcess(pid_t)> freeze;
    std::function<void(FrozenProcess)> thaw;
  };
  static FrozenTree freeze(pid_t pid, const Ways& ways);
  void thaw(const Ways& ways);
  // As FrozenProcess::freeze(). After an Error those that were frozen run on.
  static FrozenTree freeze(pid_t pid, const OptionsOf& options_of, const Patience& patience);

  // Throws kGone where it was not frozen.
  FrozenProcess& of(pid_t pid);
  std::vector<FrozenProcess>& processes() { return processes_; }
  // Parents before their children, and those that have ended among them.
  const std::vector<pid_t>& all() const { return all_; }
  // Of them, those that have a snapshot (snapshot.h) among their children.
  const std::set<pid_t>& copied() const { return copied_; }
  void thaw();
  // The same, and who they were can still be asked.
  void let_go();
  // Ends all of them with SIGKILL, the first last.
  void kill();

 private:
  bool freeze_new_children(const std::function<FrozenProcess(pid_t)>& freeze);
  bool has(pid_t pid) const;

  std::vector<FrozenProcess> processes_;
  std::vector<pid_t> all_;
  std::set<pid_t> copied_;
};

}  // namespace telefork::tracee
