// Which other processes have something open or mapped that a process, or a tree of them, is to move
// with: what they would go on using stays, and a copy of it would be another thing.
//
//     OutsideHolders outside({pid});           // those that move
//     if (pid_t other = outside.find({thread, fd, link, stat})) ... refused
//
// Reads the descriptors of all processes once, when it is first asked: about 2 us each. Those of
// processes that this user may not look at are not known (docs/limits.md), nor what is on its way
// in a socket. This process's own do not count. Where those that move have something, which is read
// once too, is told by places().
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <sys/stat.h>
#include <sys/types.h>

#include "kernel/procfs_maps.h"

namespace telefork::capture {

// Shared memory or a file that is mapped. The inode alone does not tell: each tmpfs has its own,
// and that of System V memory is its id.
using SharedObject = std::tuple<unsigned, unsigned, std::uint64_t, bool>;
SharedObject shared_object_of(const kernel::Vma& vma);

class OutsideHolders {
 public:
  explicit OutsideHolders(std::set<pid_t> movers) : movers_(std::move(movers)) {}

  bool moves(pid_t pid) const { return movers_.contains(pid); }
  const std::set<pid_t>& movers() const { return movers_; }
  struct Place {
    pid_t pid;
    int fd;
  };
  // Where those that move have a pipe, a socket or a FIFO of that name open.
  const std::vector<Place>& places(const std::string& link);

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
  // Of a terminal: who has this very description of its master, or has its slave open.
  pid_t find_master(pid_t thread, int fd, dev_t number);
  pid_t find_slave(dev_t device, ino_t inode);
  // The same of a file with a name.
  pid_t find_named(const struct stat& stat);
  // Whether somebody else has a pipe, a socket or the like of that name open.
  bool has_unnamed(const std::string& link);
  // Whether somebody else has mapped it shared.
  bool is_shared(const kernel::Vma& vma);

 private:
  using Inode = std::pair<dev_t, ino_t>;
  void look();
  void look_at(pid_t pid);
  void look_at_mappings();
  void look_at_shared_memory();
  pid_t find_description(const Open& open) const;
  pid_t find_opened(const struct stat& stat) const;
  struct Device {
    Place place;
    Inode inode;
    dev_t number;
  };
  const std::vector<Device>& devices();

  std::set<pid_t> movers_;
  std::optional<std::map<std::string, std::vector<Place>>> own_;  // by link
  std::optional<std::set<SharedObject>> shared_;
  bool looked_ = false;
  std::map<std::string, std::vector<Place>> unnamed_;  // pipes, sockets, anonymous inodes: by link
  std::map<Inode, pid_t> nameless_files_;
  std::vector<Place> named_;
  std::optional<std::vector<Device>> devices_;  // character devices among them
  std::optional<std::map<Inode, pid_t>> mapped_;
};

}  // namespace telefork::capture
