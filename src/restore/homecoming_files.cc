// Descriptors that come home. What went there is home's own, at whichever numbers the guest had it;
// what was opened there is opened here before anything is changed.
#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs.h"
#include "restore/homecoming.h"
#include "tracee/fd_passing.h"

namespace telefork::restore {
namespace {

using image::schema::Descriptor;
using image::schema::FileDescription;
using tracee::SyscallProgram;

// What F_SETFL changes.
constexpr unsigned kStatusFlags = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | O_ASYNC;

// What f uses there is to be had here too, or is in the way: `remedy` is what f can do.
template <class Get>
auto have_or_refuse(const std::string& what, std::string_view remedy, Get&& get) {
  try {
    return get();
  } catch (const Error& error) {
    if (error.code() != Code::kFailed && error.code() != Code::kRefused) throw;
    throw Error(Code::kRefused, fmt::format("{}: {}; {}", what, error.text(), remedy));
  }
}

}  // namespace

// The descriptor of home that names it, whatever its number is there; -1: it was opened there.
int Homecoming::home_of(FileDescription::Reader description) const {
  if (description.getKind() == FileDescription::Kind::STDIO) {
    auto stream = static_cast<int>(description.getStream());
    if (settings_.sent_fds.count(stream) != 0) return stream;
    throw Error(Code::kCorrupt, fmt::format("there is no standard stream {} here", stream));
  }
  if (description.getOrigin() == 0) return -1;
  auto home = homes_.find(description.getOrigin() - 1);
  if (home != homes_.end()) return home->second;
  throw Error(Code::kCorrupt, "a descriptor names a file that did not go there");
}

bool Homecoming::is_at_home(int fd, int home) const {
  auto here = settings_.sent_fds.find(fd);
  return here != settings_.sent_fds.end() && here->second == settings_.sent_fds.at(home);
}

// Its position is that filesystem's own. The guest began at 0 where this is not that machine.
void Homecoming::check_directory(int fd, FileDescription::Reader description) const {
  if (description.getKind() != FileDescription::Kind::DIRECTORY || same_boot_) return;
  if (description.getPosition() == 0) return;
  throw Error(Code::kRefused, fmt::format("fd {} -> {}: directory was read in part there, which "
                                          "does not come home; have f close or rewind it",
                                          fd, description.getFile().getPath().cStr()));
}

// Of standard streams, and of what was left here, there were only stand-ins there.
void Homecoming::plan_settling(int home, FileDescription::Reader description) {
  const FileDescription::Kind kind = description.getKind();
  if (kind != FileDescription::Kind::REGULAR && kind != FileDescription::Kind::DIRECTORY &&
      kind != FileDescription::Kind::DEVICE) {
    return;
  }
  Settling settling{home, description.getFlags(), std::nullopt};
  const bool has_position = kind == FileDescription::Kind::REGULAR ||
                            (kind == FileDescription::Kind::DIRECTORY && same_boot_);
  if (has_position && (description.getFlags() & O_PATH) == 0) {
    settling.position = description.getPosition();
  }
  settlings_.push_back(settling);
}

int Homecoming::add_file(UniqueFd file) {
  files_to_give_.push_back(std::move(file));
  return static_cast<int>(files_to_give_.size() - 1);
}

UniqueFd Homecoming::open_anew(int fd, FileDescription::Reader description) {
  return have_or_refuse(fmt::format("fd {} -> {}", fd, description.getName().cStr()),
                        "have f close it, or put it on a filesystem that both machines share", [&] {
                          return open_files_.open_description(
                              description, contents_,
                              [](const std::string& text) { throw Error(Code::kRefused, text); });
                        });
}

void Homecoming::plan_descriptors() {
  auto files = files_->get<image::schema::Files>();
  for (auto [fd, sent] : settings_.sent_fds) homes_.emplace(sent, fd);
  std::set<int> there;
  std::map<unsigned, Placing> known;  // of each description: where it is to be had from
  std::set<std::uint32_t> origins;
  for (Descriptor::Reader descriptor : files.getDescriptors()) {
    auto fd = static_cast<int>(descriptor.getFd());
    if (settings_.own_fds.count(fd) != 0) {
      throw Error(
          Code::kRefused,
          fmt::format("fd {} was opened there, which is telefork's own here; have f close it", fd));
    }
    if (descriptor.getDescription() >= files.getDescriptions().size()) {
      throw Error(Code::kCorrupt, "a descriptor names a file that is not in the image");
    }
    FileDescription::Reader description = files.getDescriptions()[descriptor.getDescription()];
    there.insert(fd);
    check_directory(fd, description);
    auto [found, is_new] = known.try_emplace(descriptor.getDescription());
    if (is_new) {
      if (description.getOrigin() != 0 && !origins.insert(description.getOrigin()).second) {
        throw Error(Code::kRefused,
                    fmt::format("fd {} -> {}: telefork knows another one by its signal; have f set "
                                "it as it was (F_SETSIG)",
                                fd, description.getName().cStr()));
      }
      found->second.home = home_of(description);
      if (found->second.home >= 0) {
        plan_settling(found->second.home, description);
      } else {
        found->second.file = add_file(open_anew(fd, description));
      }
    }
    Placing placing = found->second;
    placing.fd = fd;
    placing.keeps = placing.home >= 0 && is_at_home(fd, placing.home);
    placing.close_on_exec = descriptor.getCloseOnExec();
    placings_.push_back(placing);
  }
  for (int fd : kernel::list_fds(parked_.pid())) {
    if (there.count(fd) == 0 && settings_.own_fds.count(fd) == 0) closings_.push_back(fd);
  }
  check_numbers();
}

// One that is above the limit, since that was lowered, only stays where it is.
void Homecoming::check_numbers() {
  SyscallProgram program;
  tracee::Data data = program.buffer(sizeof(rlimit));
  program.call("reading the limit of descriptors", SYS_prlimit64, {0, RLIMIT_NOFILE, 0, data});
  auto limit = parked_.stub().run(program).object<rlimit>(data);
  max_fds_ = limit.rlim_cur;
  for (const Placing& placing : placings_) {
    if (placing.keeps || static_cast<std::uint64_t>(placing.fd) < max_fds_) continue;
    throw Error(
        Code::kResources,
        fmt::format("there is no descriptor {} here (limit nofile is {})", placing.fd, max_fds_),
        EMFILE);
  }
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
    if (is_new) {
      found->second = add_file(have_or_refuse(
          fmt::format("mapping {}", place_name(piece.range)),
          "have f unmap it, or put the file on a filesystem that both machines share",
          [&] { return open_files_.open_for_mapping(file, contents_, writable); }));
    }
    mapped_files_[&piece] = found->second;
  }
  std::string cwd = process().getCwd();
  if (cwd != kernel::read_cwd_link(parked_.pid())) {
    cwd_file_ = add_file(have_or_refuse("its working directory", "have f change to another one",
                                        [&] { return open_file(cwd, O_PATH | O_DIRECTORY); }));
  }
  std::vector<int> numbers;
  for (const UniqueFd& file : files_to_give_) numbers.push_back(file.get());
  given_ = tracee::give_fds(parked_.stub(), settings_.our_socket, settings_.their_socket, numbers);
  for (int fd : given_) reverse_by(SYS_close, {fd});
  tell_reversal();
  move_out_of_the_way();
  pages_fd_ = given_.at(static_cast<std::size_t>(pages));
}

int Homecoming::next_number(FreeNumbers& free) const {
  int number = free.next();
  if (static_cast<std::uint64_t>(number) < max_fds_) return number;
  throw Error(Code::kResources,
              fmt::format("there is no descriptor left here (limit nofile is {})", max_fds_),
              EMFILE);
}

// Files were given numbers that others are to have, and what descriptors of home name is to have
// other numbers, where these may be in use.
void Homecoming::move_out_of_the_way() {
  std::set<int> targets;
  for (const Placing& placing : placings_) targets.insert(placing.fd);
  std::set<int> taken = targets;
  for (int fd : kernel::list_fds(parked_.pid())) taken.insert(fd);
  FreeNumbers free(taken);
  SyscallProgram program;
  auto copy = [&](int fd) {
    int to = next_number(free);
    reverse_by(SYS_close, {to});
    program.call_expecting("moving a descriptor", to, SYS_dup3, {fd, to, O_CLOEXEC});
    return to;
  };
  for (int& fd : given_) {
    if (targets.count(fd) == 0) continue;
    int to = copy(fd);
    program.call("moving a descriptor", SYS_close, {fd});
    fd = to;
  }
  for (const Placing& placing : placings_) {
    if (placing.keeps || placing.home < 0 || parked_fds_.count(placing.home) != 0) continue;
    parked_fds_.emplace(placing.home, copy(placing.home));
  }
  tell_reversal();
  run(program);
}

// Ahead of the rest: not every file takes all of them.
void Homecoming::set_flags() {
  for (const Settling& settling : settlings_) {
    const unsigned here = kernel::read_fdinfo(parked_.pid(), settling.fd).flags;
    if (((here ^ settling.flags) & kStatusFlags) == 0) continue;
    reverse_by(SYS_fcntl, {settling.fd, F_SETFL, here & kStatusFlags});
    tell_reversal();
    SyscallProgram program;
    program.call("setting its flags", SYS_fcntl,
                 {settling.fd, F_SETFL, settling.flags & kStatusFlags});
    have_or_refuse(
        fmt::format("fd {} -> {}", settling.fd, kernel::read_fd_link(parked_.pid(), settling.fd)),
        "have f set them as they were (F_SETFL)", [&] { run(program); });
  }
}

void Homecoming::add_positions(SyscallProgram& program) {
  for (const Settling& settling : settlings_) {
    kernel::FdInfo info = kernel::read_fdinfo(parked_.pid(), settling.fd);
    if (!settling.position || static_cast<std::uint64_t>(info.position) == *settling.position) {
      continue;
    }
    program.call(fmt::format("restoring the position of fd {}", settling.fd), SYS_lseek,
                 {settling.fd, *settling.position, SEEK_SET});
  }
}

void Homecoming::add_descriptors(SyscallProgram& program) {
  add_positions(program);
  for (int fd : closings_) {
    program.call_any(fmt::format("closing fd {}", fd), SYS_close, {fd});
  }
  for (const Placing& placing : placings_) {
    std::string name = fmt::format("restoring fd {}", placing.fd);
    if (!placing.keeps) {
      int from = placing.home >= 0 ? parked_fds_.at(placing.home)
                                   : given_.at(static_cast<std::size_t>(placing.file));
      program.call_expecting(name, placing.fd, SYS_dup3,
                             {from, placing.fd, placing.close_on_exec ? O_CLOEXEC : 0});
      continue;
    }
    kernel::FdInfo info = kernel::read_fdinfo(parked_.pid(), placing.fd);
    if (placing.close_on_exec != ((info.flags & O_CLOEXEC) != 0)) {
      program.call(name, SYS_fcntl, {placing.fd, F_SETFD, placing.close_on_exec ? FD_CLOEXEC : 0});
    }
  }
  if (cwd_file_ >= 0) {
    program.call("changing to directory " + std::string(process().getCwd()), SYS_fchdir,
                 {given_.at(static_cast<std::size_t>(cwd_file_))});
  }
  for (int fd : given_) program.call_any("closing a file", SYS_close, {fd});
  for (auto [fd, parked] : parked_fds_) {
    program.call_any("closing a parked descriptor", SYS_close, {parked});
  }
}

}  // namespace telefork::restore
