#include "capture/holders.h"

#include <cerrno>

#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/error.h"
#include "image/named_memory.h"
#include "kernel/procfs.h"
#include "tracee/snapshot.h"

namespace telefork::capture {
namespace {

// It has ended meanwhile, has closed that descriptor, or is another user's.
bool is_out_of_sight(const Error& error) {
  return error.code() == Code::kGone || error.error() == ENOENT || error.error() == EBADF ||
         error.error() == EACCES || error.error() == EPERM;
}

template <class F>
void as_far_as_seen(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    if (!is_out_of_sight(error)) throw;
  }
}

}  // namespace

SharedObject shared_object_of(const kernel::Vma& vma) {
  return {vma.dev_major, vma.dev_minor, vma.inode, vma.is_system_v()};
}

const std::vector<OutsideHolders::Place>& OutsideHolders::places(const std::string& link) {
  if (!own_) {
    own_.emplace();
    for (const pid_t pid : movers_) {
      as_far_as_seen([&] {
        for (const int fd : kernel::list_fds(pid)) {
          as_far_as_seen([&] { (*own_)[kernel::read_fd_link(pid, fd)].push_back({pid, fd}); });
        }
      });
    }
  }
  return (*own_)[link];
}

bool OutsideHolders::is_shared(const kernel::Vma& vma) {
  if (!shared_) look_at_shared_memory();
  return shared_->contains(shared_object_of(vma));
}

// Another user's process cannot have got this memory by fork. A snapshot, of a copy that is under
// way, never writes.
void OutsideHolders::look_at_shared_memory() {
  shared_.emplace();
  for (const pid_t other : kernel::list_processes()) {
    if (moves(other)) continue;
    as_far_as_seen([&] {
      std::set<SharedObject> shared;
      for (const kernel::Vma& vma : kernel::read_maps(other)) {
        if (vma.shared) shared.insert(shared_object_of(vma));
      }
      if (!shared.empty() && !tracee::is_snapshot(other)) shared_->merge(shared);
    });
  }
}

void OutsideHolders::look_at(pid_t pid) {
  for (int fd : kernel::list_fds(pid)) {
    as_far_as_seen([&] {
      std::string link = kernel::read_fd_link(pid, fd);
      if (!link.starts_with('/')) {
        unnamed_[std::move(link)].push_back({pid, fd});
      } else if (!link.ends_with(" (deleted)")) {
        named_.push_back({pid, fd});
      } else if (struct stat stat; ::stat(kernel::fd_open_path(pid, fd).c_str(), &stat) == 0) {
        nameless_files_.emplace(Inode{stat.st_dev, stat.st_ino}, pid);
      }
    });
  }
}

void OutsideHolders::look() {
  if (looked_) return;
  looked_ = true;
  for (pid_t other : kernel::list_processes()) {
    if (moves(other) || other == ::getpid()) continue;
    as_far_as_seen([&] { look_at(other); });
  }
}

void OutsideHolders::look_at_mappings() {
  if (mapped_) return;
  mapped_.emplace();
  for (pid_t other : kernel::list_processes()) {
    if (moves(other)) continue;
    as_far_as_seen([&] {
      for (const kernel::Vma& vma : kernel::read_maps(other)) {
        const bool may_be_asked_for = vma.deleted || image::is_named_memory(vma.path);
        if (!may_be_asked_for || !vma.is_file()) continue;
        mapped_->emplace(Inode{makedev(vma.dev_major, vma.dev_minor), vma.inode}, other);
      }
    });
  }
}

// An anonymous inode is one for all of its kind.
pid_t OutsideHolders::find_description(const Open& open) const {
  auto places = unnamed_.find(open.link);
  if (places == unnamed_.end()) return 0;
  for (const Place& place : places->second) {
    if (::syscall(SYS_kcmp, open.thread, place.pid, KCMP_FILE, open.fd, place.fd) == 0) {
      return place.pid;
    }
  }
  return 0;
}

// A FIFO may be open by several names.
pid_t OutsideHolders::find_opened(const struct stat& wanted) const {
  for (const Place& place : named_) {
    struct stat stat;
    if (::stat(kernel::fd_open_path(place.pid, place.fd).c_str(), &stat) == 0 &&
        stat.st_dev == wanted.st_dev && stat.st_ino == wanted.st_ino) {
      return place.pid;
    }
  }
  return 0;
}

// There are few among all that is open.
const std::vector<OutsideHolders::Device>& OutsideHolders::devices() {
  look();
  if (devices_) return *devices_;
  devices_.emplace();
  for (const Place& place : named_) {
    struct stat stat;
    if (::stat(kernel::fd_open_path(place.pid, place.fd).c_str(), &stat) != 0) continue;
    if (S_ISCHR(stat.st_mode)) {
      devices_->push_back({place, {stat.st_dev, stat.st_ino}, stat.st_rdev});
    }
  }
  return *devices_;
}

pid_t OutsideHolders::find_master(pid_t thread, int fd, dev_t number) {
  for (const Device& device : devices()) {
    const auto [pid, other] = device.place;
    if (device.number == number && ::syscall(SYS_kcmp, thread, pid, KCMP_FILE, fd, other) == 0) {
      return pid;
    }
  }
  return 0;
}

pid_t OutsideHolders::find_slave(dev_t device, ino_t inode) {
  for (const Device& one : devices()) {
    if (one.inode == Inode{device, inode}) return one.place.pid;
  }
  return 0;
}

bool OutsideHolders::has_unnamed(const std::string& link) {
  look();
  return unnamed_.contains(link);
}

pid_t OutsideHolders::find(const Open& open) {
  look();
  if (open.link.starts_with("pipe:") || open.link.starts_with("socket:")) {
    auto places = unnamed_.find(open.link);
    return places == unnamed_.end() ? 0 : places->second.front().pid;
  }
  if (!open.link.starts_with('/')) return find_description(open);
  if (S_ISFIFO(open.stat.st_mode) && open.stat.st_nlink > 0) return find_opened(open.stat);
  return find_file(open.stat.st_dev, open.stat.st_ino);
}

pid_t OutsideHolders::find_named(const struct stat& stat) {
  look();
  if (pid_t other = find_opened(stat)) return other;
  look_at_mappings();
  auto mapped = mapped_->find({stat.st_dev, stat.st_ino});
  return mapped == mapped_->end() ? 0 : mapped->second;
}

pid_t OutsideHolders::find_file(dev_t device, ino_t inode) {
  look();
  auto open = nameless_files_.find({device, inode});
  if (open != nameless_files_.end()) return open->second;
  look_at_mappings();
  auto mapped = mapped_->find({device, inode});
  return mapped == mapped_->end() ? 0 : mapped->second;
}

}  // namespace telefork::capture
