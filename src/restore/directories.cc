// Working and root directories (chroot(2)). A process that is made here has this machine's root
// until all its files are open; one at home may have another one from the start. So whatever cannot
// be told by a path when that is changed is a descriptor by then, in a number above all of the
// program's, until the last thread is where it belongs.
#include <algorithm>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/procfs_file.h"
#include "kernel/procfs_task.h"
#include "restore/outside.h"
#include "restore/removed_directory.h"
#include "restore/restorer.h"

namespace telefork::restore {

using image::schema::Thread;
using tracee::SyscallProgram;

std::string Restorer::wanted_root() const {
  std::string root = process().getRoot();
  return root.empty() ? "/" : root;
}

// One that was removed is as good as another.
bool Restorer::has_wanted_root() const {
  struct stat root {};
  return kernel::read_root_link(blank_->pid()) == wanted_root() ||
         (process().getRootMode() != 0 &&
          ::stat(kernel::root_path(blank_->pid()).c_str(), &root) == 0 && root.st_nlink == 0);
}

bool Restorer::has_own_root(Thread::Reader thread) const {
  return thread.getOwnDirectory() && thread.getRoot().size() != 0 &&
         std::string(thread.getRoot()) != wanted_root();
}

bool Restorer::some_thread_has_own_root() const {
  return std::any_of(threads_.begin(), threads_.end(), [this](const image::Record& record) {
    return has_own_root(record.get<Thread>());
  });
}

// Before anything is done that takes long.
void Restorer::check_root() const {
  if (has_wanted_root() && !some_thread_has_own_root()) return;
  const kernel::Status blank = kernel::read_status(blank_->pid());
  if ((blank.cap_effective >> CAP_SYS_CHROOT & 1) != 0) return;
  throw Error(Code::kRefused,
              fmt::format("its root directory is {} (chroot), and to restore that takes "
                          "CAP_SYS_CHROOT",
                          wanted_root()));
}

void Restorer::add_directory(const std::string& path, mode_t removed, bool opened_here) {
  auto [place, is_new] = directories_.try_emplace(path);
  if (!is_new) return;
  if (removed != 0) {
    place->second.file = make_removed_directory(name_of_removed(path), removed);
  } else if (opened_here) {
    place->second.file = open_file(path, O_PATH | O_DIRECTORY);
  }
}

// What it opens itself it does in its own mount namespace.
void Restorer::find_directories() {
  check_root();  // of all threads, which came last
  const bool inside = has_other_root(*blank_);
  const std::string root = wanted_root();
  const std::string cwd = process().getCwd();
  const bool changes = !has_wanted_root();
  if (inside || changes || process().getCwdMode() != 0 || some_thread_has_own_root()) {
    add_directory(cwd, process().getCwdMode(), inside);
  }
  if (inside) add_directory("/", 0, inside);
  if (changes) add_directory(root, process().getRootMode(), inside);
  if (!inside && !changes && !some_thread_has_own_root()) return;
  for (const image::Record& record : threads_) {
    auto thread = record.get<Thread>();
    if (!thread.getOwnDirectory()) continue;
    add_directory(thread.getCwd(), 0, inside);
    if (has_own_root(thread)) add_directory(thread.getRoot(), 0, inside);
  }
}

// Its descriptors are in their places.
void Restorer::enter_directories() {
  if (has_parents(parts_->with_parents_directories)) return;  // who is where it belongs
  SyscallProgram opening;
  std::vector<std::pair<Directory*, tracee::Result>> opened;
  for (auto& [path, directory] : directories_) {
    if (directory.number >= 0) continue;
    opened.emplace_back(
        &directory, opening.call("opening directory " + path, SYS_openat,
                                 {AT_FDCWD, opening.text(path), O_PATH | O_DIRECTORY | O_CLOEXEC}));
  }
  if (!opened.empty()) {
    const tracee::ProgramRun run = blank_->stub().run(opening);
    for (auto& [directory, number] : opened) {
      directory->number = static_cast<int>(run.result(number));
    }
  }
  SyscallProgram program;
  if (!has_wanted_root()) add_root(wanted_root(), program);
  add_working_directory(process().getCwd(), program);
  blank_->stub().run(program);
}

void Restorer::add_root(const std::string& path, SyscallProgram& program) const {
  program.call("changing to directory " + path, SYS_fchdir, {directories_.at(path).number});
  program.call("changing the root directory to " + path, SYS_chroot, {program.text(".")});
}

void Restorer::add_working_directory(const std::string& path, SyscallProgram& program) const {
  const std::string name = "changing to directory " + path;
  if (auto directory = directories_.find(path); directory != directories_.end()) {
    program.call(name, SYS_fchdir, {directory->second.number});
  } else {
    program.call(name, SYS_chdir, {program.text(path)});
  }
}

void Restorer::add_own_directories(Thread::Reader thread, SyscallProgram& program) const {
  program.call("giving a thread directories of its own", SYS_unshare, {CLONE_FS});
  if (has_own_root(thread)) add_root(thread.getRoot(), program);
  add_working_directory(thread.getCwd(), program);
  program.call("restoring the umask of a thread", SYS_umask, {thread.getUmask()});
}

void Restorer::add_end_of_directories(SyscallProgram& program) const {
  for (const auto& [path, directory] : directories_) {
    program.call("closing directory " + path, SYS_close, {directory.number});
  }
}

}  // namespace telefork::restore
