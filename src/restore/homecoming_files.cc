// Descriptors that come home. Those of home stay where the guest had the same file; what was opened
// there is opened here before anything is changed.
#include <algorithm>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs.h"
#include "restore/free_numbers.h"
#include "restore/homecoming.h"
#include "tracee/fd_passing.h"

namespace telefork::restore {
namespace {

using image::schema::Descriptor;
using image::schema::FileDescription;
using tracee::SyscallProgram;

// What F_SETFL changes.
constexpr unsigned kStatusFlags = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | O_ASYNC;

}  // namespace

// A standard stream that is still its own, or one that was left here.
bool Homecoming::stays(int fd, FileDescription::Reader description) const {
  switch (description.getKind()) {
    case FileDescription::Kind::LEFT_HOME:
      return settings_.left_home.count(fd) != 0;
    case FileDescription::Kind::NULL_:
      return fd == STDIN_FILENO;
    case FileDescription::Kind::STDIO:
      return static_cast<unsigned>(fd) == description.getStream();
    default:
      return false;
  }
}

// Its name may have changed meanwhile, here or there.
bool Homecoming::is_same_file(int fd, FileDescription::Reader description) const {
  if (description.getKind() != FileDescription::Kind::REGULAR &&
      description.getKind() != FileDescription::Kind::DIRECTORY) {
    return false;
  }
  UniqueFd here = open_file(kernel::fd_open_path(parked_.pid(), fd), O_PATH);
  return kernel::same_file_whatever_its_content(kernel::identify_file(here.get()),
                                                decode_identity(description.getFile()));
}

bool Homecoming::is_same_description(int fd, FileDescription::Reader description) const {
  if (description.getKind() == FileDescription::Kind::STDIO) return false;
  std::string there = description.getFile().getPath();
  if (description.getFile().getDeleted()) there += " (deleted)";
  if (kernel::read_fd_link(parked_.pid(), fd) != there && !is_same_file(fd, description)) {
    return false;
  }
  unsigned flags = kernel::read_fdinfo(parked_.pid(), fd).flags;
  return ((flags ^ description.getFlags()) & (O_ACCMODE | O_PATH)) == 0;
}

// Its position is that filesystem's own. The guest began at 0 where this is not that machine.
void Homecoming::check_directory(int fd, FileDescription::Reader description) const {
  if (description.getKind() != FileDescription::Kind::DIRECTORY || same_boot_) return;
  if (description.getPosition() == 0) return;
  throw Error(Code::kRefused, fmt::format("fd {} -> {}: directory was read in part there, which "
                                          "does not come home; have f close or rewind it",
                                          fd, description.getFile().getPath().cStr()));
}

int Homecoming::add_file(UniqueFd file) {
  files_to_give_.push_back(std::move(file));
  return static_cast<int>(files_to_give_.size() - 1);
}

void Homecoming::plan_descriptors() {
  auto files = files_->get<image::schema::Files>();
  std::vector<int> open = kernel::list_fds(parked_.pid());
  std::set<int> here(open.begin(), open.end());
  std::set<int> there;
  std::map<unsigned, Placing> first;  // of each description: where it is to be had from
  std::vector<std::pair<Placing, unsigned>> rest;
  for (Descriptor::Reader descriptor : files.getDescriptors()) {
    auto fd = static_cast<int>(descriptor.getFd());
    if (settings_.own_fds.count(fd) != 0) {
      throw Error(Code::kRefused,
                  fmt::format("fd {} was opened there, which is telefork's own here", fd));
    }
    if (descriptor.getDescription() >= files.getDescriptions().size()) {
      throw Error(Code::kCorrupt, "a descriptor names a file that is not in the image");
    }
    FileDescription::Reader description = files.getDescriptions()[descriptor.getDescription()];
    there.insert(fd);
    check_directory(fd, description);
    Placing placing;
    placing.fd = fd;
    placing.close_on_exec = descriptor.getCloseOnExec();
    placing.flags = description.getFlags();
    if (here.count(fd) != 0 && stays(fd, description)) {
      placing.keeps = true;
      placing.untouched = true;
    } else if (here.count(fd) != 0 && is_same_description(fd, description)) {
      placing.keeps = true;
      bool has_position = description.getKind() == FileDescription::Kind::REGULAR ||
                          (description.getKind() == FileDescription::Kind::DIRECTORY && same_boot_);
      placing.seeks = has_position && (description.getFlags() & O_PATH) == 0;
      placing.position = description.getPosition();
    } else {
      rest.emplace_back(placing, descriptor.getDescription());
      continue;
    }
    first.emplace(descriptor.getDescription(), placing);
    placings_.push_back(placing);
  }
  for (auto& [placing, number] : rest) {
    FileDescription::Reader description = files.getDescriptions()[number];
    auto known = first.find(number);
    bool stream = description.getKind() == FileDescription::Kind::STDIO;
    if (known != first.end()) {
      placing.from = known->second.keeps ? known->second.fd : -1;
      placing.file = known->second.file;
    } else if (stream) {
      placing.from = static_cast<int>(description.getStream());
      if (here.count(placing.from) == 0) {
        throw Error(Code::kRefused, fmt::format("fd {} is standard stream {} there, which is "
                                                "closed here",
                                                placing.fd, placing.from));
      }
    } else {
      placing.file = add_file(open_files_.open_description(
          description, contents_,
          [](const std::string& text) { throw Error(Code::kRefused, text); }));
      first.emplace(number, placing);
    }
    placings_.push_back(placing);
  }
  for (int fd : open) {
    if (there.count(fd) == 0 && settings_.own_fds.count(fd) == 0) closings_.push_back(fd);
  }
  check_numbers(there);
}

void Homecoming::check_numbers(const std::set<int>& there) {
  SyscallProgram program;
  tracee::Data data = program.buffer(sizeof(rlimit));
  program.call("reading the limit of descriptors", SYS_prlimit64, {0, RLIMIT_NOFILE, 0, data});
  auto limit = parked_.stub().run(program).object<rlimit>(data);
  max_fds_ = limit.rlim_cur;
  if (there.empty() || static_cast<std::uint64_t>(*there.rbegin()) < max_fds_) return;
  throw Error(Code::kResources, fmt::format("there is no descriptor {} here (limit nofile is {})",
                                            *there.rbegin(), max_fds_));
}

// All that the process needs, into it: the pages first.
void Homecoming::give_files() {
  std::map<std::pair<std::string, std::uint32_t>, int> known;
  int pages = add_file(pages_.duplicate());
  for (const MapPiece& piece : pieces_) {
    if (!piece.is_mapped_anew() || !piece.image->hasFile()) continue;
    bool shared = piece.image->getKind() == image::schema::Vma::Kind::SHARED_FILE;
    if (!shared && piece.image->getKind() != image::schema::Vma::Kind::PRIVATE_FILE) continue;
    bool writable = shared && has_flag(*piece.image, kernel::VmFlag::kMayWrite);
    image::schema::FileRef::Reader file = piece.image->getFile();
    auto key =
        std::make_pair(std::string(file.getPath()) + (writable ? "+" : ""), file.getContentId());
    auto [found, is_new] = known.emplace(key, 0);
    if (is_new) found->second = add_file(open_files_.open_for_mapping(file, contents_, writable));
    mapped_files_[&piece] = found->second;
  }
  std::string cwd = process().getCwd();
  if (cwd != kernel::read_cwd_link(parked_.pid())) {
    cwd_file_ = add_file(open_file(cwd, O_PATH | O_DIRECTORY));
  }
  std::vector<int> numbers;
  for (const UniqueFd& file : files_to_give_) numbers.push_back(file.get());
  given_ = tracee::give_fds(parked_.stub(), settings_.our_socket, settings_.their_socket, numbers);
  for (int fd : given_) reverse_by(SYS_close, {fd});
  tell_reversal();
  move_out_of_the_way();
  pages_fd_ = given_.at(static_cast<std::size_t>(pages));
}

// They were given numbers that others are to have.
void Homecoming::move_out_of_the_way() {
  std::set<int> targets;
  for (const Placing& placing : placings_) targets.insert(placing.fd);
  std::set<int> taken = targets;
  for (int fd : kernel::list_fds(parked_.pid())) taken.insert(fd);
  FreeNumbers free(taken);
  SyscallProgram program;
  for (int& fd : given_) {
    if (targets.count(fd) == 0) continue;
    int to = free.next();
    if (static_cast<std::uint64_t>(to) >= max_fds_) {
      throw Error(Code::kResources,
                  fmt::format("there is no descriptor left here (limit nofile is {})", max_fds_));
    }
    reverse_by(SYS_close, {to});
    program.call("moving a descriptor", SYS_dup3, {fd, to, O_CLOEXEC});
    program.call("moving a descriptor", SYS_close, {fd});
    fd = to;
  }
  tell_reversal();
  run(program);
}

void Homecoming::add_descriptors(SyscallProgram& program) {
  for (int fd : closings_) {
    program.call_any(fmt::format("closing fd {}", fd), SYS_close, {fd});
  }
  for (const Placing& placing : placings_) {
    std::string name = fmt::format("restoring fd {}", placing.fd);
    if (!placing.keeps) {
      int from =
          placing.from >= 0 ? placing.from : given_.at(static_cast<std::size_t>(placing.file));
      program.call_expecting(name, placing.fd, SYS_dup3,
                             {from, placing.fd, placing.close_on_exec ? O_CLOEXEC : 0});
      continue;
    }
    if (placing.untouched) continue;
    kernel::FdInfo info = kernel::read_fdinfo(parked_.pid(), placing.fd);
    if (placing.close_on_exec != ((info.flags & O_CLOEXEC) != 0)) {
      program.call(name, SYS_fcntl, {placing.fd, F_SETFD, placing.close_on_exec ? FD_CLOEXEC : 0});
    }
    if (((info.flags ^ placing.flags) & kStatusFlags) != 0) {
      program.call(name, SYS_fcntl, {placing.fd, F_SETFL, placing.flags & kStatusFlags});
    }
    if (placing.seeks && static_cast<std::uint64_t>(info.position) != placing.position) {
      program.call(name, SYS_lseek, {placing.fd, placing.position, SEEK_SET});
    }
  }
  if (cwd_file_ >= 0) {
    program.call("changing to directory " + std::string(process().getCwd()), SYS_fchdir,
                 {given_.at(static_cast<std::size_t>(cwd_file_))});
  }
  for (int fd : given_) program.call_any("closing a file", SYS_close, {fd});
}

}  // namespace telefork::restore
