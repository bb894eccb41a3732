// Which other processes have something open or mapped that a process is to move with: what they
// would go on using stays, and a copy of it would be another thing.
//
//     OutsideHolders outside(pid);
//     if (pid_t other = outside.find({thread, fd, link, stat})) ... refused
//
// Reads the descriptors of all processes once, when it is first asked: about 2 us each. Those of
// processes that this user may not look at are not known (docs/limits.md), nor what is on its way
// in a socket. This process's own do not count.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <sys/stat.h>
#include <sys/types.h>

namespace telefork::capture {

class OutsideHolders {
 public:
  explicit OutsideHolders(pid_t pid) : pid_(pid) {}

  struct Open {
    pid_t thread;
    int fd;
    const std::string& link;  // in /proc/PID/fd
    const struct stat& stat;
  };
  // A process that has it; 0: none. Of what lives by its description (eventfd, epoll and the like)
  // who has that very description, else who has the file, pipe or socket.
  pid_t find(const Open& open);
  // Of a file without a name: who has it open or mapped.
  pid_t find_file(dev_t device, ino_t inode);

 private:
  using Inode = std::pair<dev_t, ino_t>;
  struct Place {
    pid_t pid;
    int fd;
  };
  void look();
  void look_at(pid_t pid);
  void look_at_mappings();
  pid_t find_description(const Open& open) const;
  pid_t find_named(const struct stat& stat) const;

  pid_t pid_;
  bool looked_ = false;
  std::map<std::string, std::vector<Place>> unnamed_;  // pipes, sockets, anonymous inodes: by link
  std::map<Inode, pid_t> nameless_files_;
  std::vector<Place> named_;
  std::optional<std::map<Inode, pid_t>> mapped_;
};

}  // namespace telefork::capture
