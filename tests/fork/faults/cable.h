// A cable between home and a telepad's TCP port, which a test can cut: a process that relays every
// connection.
//
//     Cable cable("127.0.0.1:7335");
//     cable.lay();
//     telefork::fork(cable.node()) ...
//     cable.cut();             // both ends are told
//     cable.silence();         // nothing passes any more, and nobody is told
//     cable.remove();
#pragma once

#include <string>

#include <sys/types.h>

namespace fork_test {

class Cable {
 public:
  // Where its other end is: "ADDR:PORT", of IPv4.
  explicit Cable(std::string to);
  Cable(const Cable&) = delete;
  Cable& operator=(const Cable&) = delete;
  ~Cable();

  // "127.0.0.1:PORT". Who connects to it while there is no process waits.
  const std::string& node() const { return node_; }
  // A new process, and so no connection.
  void lay();
  void cut() { remove(); }
  void silence();
  void remove();
  pid_t pid() const { return pid_; }  // -1: none

 private:
  std::string to_;
  std::string node_;
  int listener_;
  pid_t pid_ = -1;
};

}  // namespace fork_test
