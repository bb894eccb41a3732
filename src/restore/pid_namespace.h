// A pid namespace of a guest's own, for one whose ids are not free here or may not be chosen here:
// with an init, and with a /proc that the guest alone sees. Who may not make one otherwise makes it
// in a user namespace that maps nobody but its own user and group.
//
//     PidNamespace space = PidNamespace::make(init_program);   // its init begins to run
//     ...                                                      // a millisecond
//     space.await_init();
//     pid_t pid = space.start(42, group);     // like fork(): 0 in the new process, which is 42
//     there
//     ... in it: kernel::mount_own_proc()
//
// The guest is a child of this process like any other; its orphans are its init's, which ends when
// this object has and no child is left. The destructor kills it at once if release() was not
// called. See pid_namespaces(7), user_namespaces(7).
#pragma once

#include <string>

#include <sys/types.h>

#include "base/unique_fd.h"

namespace telefork::restore {

class PidNamespace {
 public:
  // Throws kUnsupported where none can be made, with the reason. What it does not say otherwise
  // gets ids from `first_id` on there, where the kernel lets them be set; 0: from 2 on.
  static PidNamespace make(const std::string& init_program, pid_t first_id = 0);
  // The same. Does nothing when it has been called before.
  void await_init();
  PidNamespace(PidNamespace&& other) noexcept;
  PidNamespace& operator=(PidNamespace&& other) noexcept;
  ~PidNamespace();

  // Forks a child of this process into it, where it has the id `want`; as this process sees it, it
  // has the one that is returned. It is in process group `group`, or with 0 in this process's. Less
  // than 0: it could not be made, errno says why; EEXIST: the id is taken.
  pid_t start(pid_t want, pid_t group) const;

  // Of init, as this process sees it: a child to be reaped.
  pid_t init() const { return init_; }
  bool has_users() const { return static_cast<bool>(users_); }
  // From now on init ends by itself, when this object does or later.
  void release() { released_ = true; }
  // The same; and whatever is in it ends with this process, should that be killed before this
  // object ends.
  void bind();

 private:
  PidNamespace() = default;
  void end();

  pid_t init_ = 0;
  std::string init_program_;
  UniqueFd lifeline_;
  UniqueFd report_;  // until await_init()
  UniqueFd pids_;    // both for setns(2)
  UniqueFd users_;   // empty: it is this process's own
  bool own_users_ = false;
  bool released_ = false;
  bool bound_ = false;
};

}  // namespace telefork::restore
