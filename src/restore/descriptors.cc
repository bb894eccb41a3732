// Open files at the numbers that the program knows them by.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <limits>
#include <set>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/pidfd.h"
#include "restore/descriptor_plan.h"
#include "restore/event_files.h"
#include "restore/outside.h"
#include "restore/restorer.h"

namespace telefork::restore {
namespace {

using image::schema::FileDescription;
using tracee::SyscallProgram;

// In the place of a description; of a directory: so much lower as its number says.
constexpr std::size_t kSessionSocket = SIZE_MAX;
constexpr std::size_t kDirectories = SIZE_MAX - 1;
constexpr rlim_t kRoom = 16;  // beyond its own: the way in, and what changes places

// As many of its files are open in the keeper too: it may have the same limit, and has more open.
std::size_t files_at_once() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) throw_errno("reading the limit of descriptors");
  return std::clamp<std::size_t>(limit.rlim_cur / 8, 4, 253);
}

void add_step(const NumberStep& step, SyscallProgram& program) {
  switch (step.kind) {
    case NumberStep::Kind::kCopy:
      program.call_expecting(fmt::format("restoring fd {}", step.to), step.to, SYS_dup3,
                             {step.from, step.to, step.close_on_exec ? O_CLOEXEC : 0});
      break;
    case NumberStep::Kind::kClose:
      program.call("closing a parked descriptor", SYS_close, {step.from});
      break;
    case NumberStep::Kind::kKeepOnExec:
      program.call(fmt::format("restoring fd {}", step.from), SYS_fcntl, {step.from, F_SETFD, 0});
      break;
  }
}

}  // namespace

// Whoever makes it is whom SO_PEERCRED names.
std::pair<UniqueFd, UniqueFd> Restorer::make_socket_pair_inside(int type, int protocol) {
  SyscallProgram program;
  tracee::Data ends = program.buffer(2 * sizeof(int));
  program.call("making a pair of sockets", SYS_socketpair,
               {AF_UNIX, type | SOCK_CLOEXEC, protocol, ends});
  auto numbers = blank_->stub().run(program).object<std::array<int, 2>>(ends);
  UniqueFd one = kernel::take_fd(blank_->pid(), numbers[0]);
  UniqueFd other = kernel::take_fd(blank_->pid(), numbers[1]);
  SyscallProgram closing;
  for (int number : numbers) closing.call("closing a socket", SYS_close, {number});
  blank_->stub().run(closing);
  return {std::move(one), std::move(other)};
}

// What listens, as the guest is to name it. Where its root is not the one that the name is for, it
// is in that folder meanwhile.
class Restorer::Listener {
 public:
  Listener(const UniqueFd& socket, image::schema::Socket::Reader record, Blank& blank)
      : record_(record) {
    std::vector<int> given = {socket.get()};
    ::capnp::Data::Reader bytes = record.getAddress();
    address_.assign(bytes.begin(), bytes.end());
    UniqueFd folder;
    if (record.getRoot().size() != 0 || has_other_root(blank)) folder = open_folder();
    if (folder) given.push_back(folder.get());
    numbers_ = blank.give_fds(given);
  }

  int number() const { return numbers_.front(); }

  void add_listening(SyscallProgram& program) {
    program.call("listening", SYS_listen, {number(), record_.getBacklog()});
    if (numbers_.size() > 1) {
      program.call("changing to the folder of a socket", SYS_fchdir, {numbers_.back()});
    }
    name_ = program.bytes(std::as_bytes(std::span(address_)));
  }

  tracee::Result add_client(int flags, SyscallProgram& program) const {
    const tracee::Result made = program.call(
        "making a socket", SYS_socket, {AF_UNIX, record_.getType() | SOCK_CLOEXEC | flags, 0});
    program.call("connecting a socket", SYS_connect, {made, *name_, address_.size()});
    return made;
  }

  void add_end(SyscallProgram& program) const {
    for (int number : numbers_) program.call("closing a socket", SYS_close, {number});
  }

 private:
  // The rest of the address is the name within it. Nothing: it is no path.
  UniqueFd open_folder() {
    constexpr std::size_t kPath = offsetof(sockaddr_un, sun_path);
    std::string path(address_.begin() + static_cast<std::ptrdiff_t>(kPath), address_.end());
    path = path.substr(0, path.find('\0'));
    const std::size_t slash = path.rfind('/');
    if (slash == std::string::npos) return {};
    address_.erase(address_.begin() + kPath,
                   address_.begin() + static_cast<std::ptrdiff_t>(kPath + slash + 1));
    return open_file(std::string(record_.getRoot()) + path.substr(0, slash + 1),
                     O_PATH | O_DIRECTORY);
  }

  image::schema::Socket::Reader record_;
  std::vector<std::uint8_t> address_;
  std::vector<int> numbers_;
  std::optional<tracee::Data> name_;
};

// Whoever had it listen, and whoever connects, is whom SO_PEERCRED names.
std::pair<UniqueFd, UniqueFd> Restorer::connect_inside(const UniqueFd& socket,
                                                       image::schema::Socket::Reader record) {
  Listener listener(socket, record, *blank_);
  SyscallProgram program;
  listener.add_listening(program);
  const tracee::Result one = listener.add_client(0, program);
  const tracee::Result other =
      program.call("accepting a connection", SYS_accept4, {listener.number(), 0, 0, SOCK_CLOEXEC});
  const tracee::ProgramRun run = blank_->stub().run(program);
  const int numbers[] = {static_cast<int>(run.result(one)), static_cast<int>(run.result(other))};
  UniqueFd connected = kernel::take_fd(blank_->pid(), numbers[0]);
  UniqueFd accepted = kernel::take_fd(blank_->pid(), numbers[1]);
  SyscallProgram closing;
  listener.add_end(closing);
  for (int number : numbers) closing.call("closing a socket", SYS_close, {number});
  blank_->stub().run(closing);
  return {std::move(connected), std::move(accepted)};
}

std::vector<UniqueFd> Restorer::connect_waiting(const UniqueFd& socket,
                                                image::schema::Socket::Reader record,
                                                unsigned count) {
  Listener listener(socket, record, *blank_);
  SyscallProgram program;
  listener.add_listening(program);
  std::vector<tracee::Result> made;
  for (unsigned i = 0; i < count; ++i) made.push_back(listener.add_client(SOCK_NONBLOCK, program));
  const tracee::ProgramRun run = blank_->stub().run(program);
  std::vector<UniqueFd> clients;
  SyscallProgram closing;
  listener.add_end(closing);
  for (const tracee::Result& one : made) {
    const auto number = static_cast<int>(run.result(one));
    clients.push_back(kernel::take_fd(blank_->pid(), number));
    closing.call("closing a socket", SYS_close, {number});
  }
  blank_->stub().run(closing);
  return clients;
}

// Empty: it cannot; `error` says why.
UniqueFd Restorer::open_inside(const std::string& path, unsigned flags, int& error) {
  const Outside outside(*blank_);
  SyscallProgram opening;
  const tracee::Result opened =
      opening.call_any("opening " + path, SYS_openat,
                       {outside.base(), opening.text(outside.path_of(path)), flags | O_CLOEXEC});
  const auto number = static_cast<int>(blank_->stub().run(opening).result(opened));
  error = number < 0 ? -number : 0;
  UniqueFd file;
  if (number >= 0) file = kernel::take_fd(blank_->pid(), number);
  SyscallProgram closing;
  if (number >= 0) closing.call("closing " + path, SYS_close, {number});
  outside.add_end(closing);
  run_if_large(closing, true);
  return file;
}

// Whoever opens it is whom /proc/self is of.
UniqueFd Restorer::open_own_proc(FileDescription::Reader description) {
  const std::string path = description.getFile().getPath();
  // check_layers: allow proc: it is opened for the guest.
  if (!path.starts_with("/proc/self")) {
    throw Error(Code::kCorrupt, "a file of /proc is not its own");
  }
  int error = 0;
  UniqueFd file = open_inside(path, kept_flags(description), error);
  if (error != 0) throw_errno("opening " + path, error);
  if (!file) throw Error(Code::kGone, path + ", which was just opened, is not there");
  const auto position = static_cast<off_t>(description.getPosition());
  if (position != 0 && ::lseek(file.get(), position, SEEK_SET) < 0) {
    throw_errno("seeking in " + path);
  }
  return file;
}

// By that name too; only who has it for its controlling terminal can. Empty: it has not.
UniqueFd Restorer::try_open_own_terminal(FileDescription::Reader description) {
  int error = 0;
  return open_inside("/dev/tty", kept_flags(description) | O_NOCTTY, error);
}

Restorer::DescriptionList Restorer::descriptions() const {
  return parts_->files->get<image::schema::Files>().getDescriptions();
}

bool Restorer::holds_first(std::uint32_t description) const {
  return parts_->descriptions.at(description).first_holder == this;
}

// Whoever makes the socket takes them.
void Restorer::count_sent_along(TreeParts& parts, Restorer* first) {
  for (image::schema::Socket::Reader socket :
       parts.sockets->get<image::schema::Sockets>().getSockets()) {
    for (image::schema::SentAlong::Reader sent : socket.getSentAlong()) {
      for (const std::uint32_t index : sent.getDescriptions()) {
        if (index >= parts.descriptions.size()) {
          throw Error(Code::kCorrupt, "what was sent along is not in the image");
        }
        ++parts.descriptions[index].users;
        if (parts.descriptions[index].first_holder == nullptr) {
          parts.descriptions[index].first_holder = first;
        }
      }
    }
  }
}

void Restorer::share_descriptors(std::span<Restorer* const> all) {
  TreeParts& parts = *all.front()->parts_;
  if (!parts.files) throw Error(Code::kCorrupt, "the image lacks its descriptors");
  parts.descriptions.resize(all.front()->descriptions().size());
  for (Restorer* one : all) {
    if (!one->files_) throw Error(Code::kCorrupt, "the image lacks its descriptors");
    if (one->has_parents(parts.with_parents_descriptors)) continue;
    std::set<std::uint32_t> taken;
    for (image::schema::Descriptor::Reader descriptor :
         one->files_->get<image::schema::Files>().getDescriptors()) {
      taken.insert(descriptor.getDescription());
    }
    for (const std::uint32_t index : taken) {
      if (index >= parts.descriptions.size()) {
        throw Error(Code::kCorrupt, "a descriptor names a file that is not in the image");
      }
      TreeParts::Description& description = parts.descriptions[index];
      ++description.users;
      if (description.first_holder == nullptr) description.first_holder = one;
    }
  }
  if (parts.sockets) count_sent_along(parts, all.front());
  for (Restorer* one : all) {
    if (one->has_parents(parts.with_parents_descriptors)) continue;
    for (const std::uint32_t index : one->find_hidden_targets()) ++parts.descriptions[index].users;
  }
}

std::set<std::uint32_t> Restorer::find_hidden_targets() const {
  std::set<std::uint32_t> own;
  std::set<std::uint32_t> hidden;
  for (image::schema::Descriptor::Reader descriptor :
       files_->get<image::schema::Files>().getDescriptors()) {
    own.insert(descriptor.getDescription());
  }
  for (const std::uint32_t index : own) {
    if (!holds_first(index)) continue;
    for (image::schema::EpollItem::Reader item : descriptions()[index].getEpoll()) {
      if (!own.contains(item.getDescription())) hidden.insert(item.getDescription());
    }
  }
  return hidden;
}

void Restorer::close_hidden_targets() {
  SyscallProgram program;
  for (const auto& [index, number] : hidden_) {
    program.call("closing what an epoll watches", SYS_close, {number});
  }
  hidden_.clear();
  run_if_large(program, true);
}

// Each is opened by the process that has it first; where others have it too a copy of the
// descriptor waits here.
UniqueFd Restorer::take_description(std::uint32_t index) {
  TreeParts::Description& description = parts_->descriptions[index];
  if (!description.file) description.file = open_description(descriptions()[index]);
  TELEFORK_ASSERT(description.users > 0);
  if (--description.users == 0) return std::move(description.file);
  return description.file.duplicate();
}

UniqueFd Restorer::open_description(FileDescription::Reader description) {
  auto warn_function = [this](const std::string& text) { warn(text); };
  if (description.getKind() == FileDescription::Kind::SOCKET) {
    return parts_->opened_sockets->open(description);
  }
  if (description.getKind() == FileDescription::Kind::PROCFS) return open_own_proc(description);
  if (description.getKind() == FileDescription::Kind::PIPE) {
    return parts_->pipes->open_end(description);
  }
  if (description.getKind() == FileDescription::Kind::PTY_MASTER ||
      description.getKind() == FileDescription::Kind::PTY_SLAVE) {
    UniqueFd end = parts_->ptys.open_end(description);
    UniqueFd own = description.getOwnTerminal() ? try_open_own_terminal(description) : UniqueFd();
    return own ? std::move(own) : std::move(end);
  }
  if (is_event_file(description.getKind())) {
    pid_t of = blank_->pid();
    if (const auto other = static_cast<pid_t>(description.getPidfdOf()); other != 0) {
      auto member = parts_->pids.find(other);
      if (member == parts_->pids.end()) throw Error(Code::kCorrupt, "a pidfd is of no process");
      of = member->second;
    }
    return open_event_file(description, of);
  }
  if (description.getKind() != FileDescription::Kind::STDIO) {
    return parts_->open_files.open_description(description, parts_->contents, warn_function);
  }
  if (description.getStream() > 2) throw Error(Code::kCorrupt, "no such standard stream");
  const UniqueFd& stream = parts_->streams[description.getStream()];
  if (stream) return stream.duplicate();
  return open_file("/dev/null", description.getStream() == 0 ? O_RDONLY : O_WRONLY);
}

// What came for the mappings is mapped by now.
void Restorer::close_mapped_files() {
  SyscallProgram program;
  std::set<int> mapped;
  for (const Mapping& mapping : mappings_) {
    if (mapping.file >= 0) mapped.insert(mapping.file);
  }
  if (bulk_in_blank_ >= 0) mapped.insert(bulk_in_blank_);
  for (int fd : mapped) program.call("closing a mapped file", SYS_close, {fd});
  run_if_large(program, true);
}

// The blank's own may be lower than the numbers that the program had; it is restored later. -> how
// many numbers it has.
int Restorer::make_room_for_descriptors(const std::vector<WantedNumber>& wanted) {
  rlim_t need = 0;
  for (const WantedNumber& one : wanted) {
    need = std::max(need, static_cast<rlim_t>(one.number) + 1);
  }
  // Numbers by which an epoll knows what has others by now.
  for (FileDescription::Reader description : descriptions()) {
    for (image::schema::EpollItem::Reader item : description.getEpoll()) {
      need = std::max(need, static_cast<rlim_t>(item.getFd()) + 1);
    }
  }
  // By itself: one that was found may be another user's.
  SyscallProgram ask;
  const tracee::Data answer = ask.buffer(sizeof(rlimit));
  ask.call("reading the limit of descriptors", SYS_prlimit64, {0, RLIMIT_NOFILE, 0, answer});
  auto limit = blank_->stub().run(ask).object<rlimit>(answer);
  if (limit.rlim_cur < need + kRoom) {
    rlimit wider{need + kRoom, std::max(limit.rlim_max, need + kRoom)};
    if (::prlimit(blank_->pid(), RLIMIT_NOFILE, &wider, nullptr) == 0) limit = wider;
  }
  if (limit.rlim_cur < need) {
    throw Error(Code::kResources,
                fmt::format("there is no descriptor {} here (limit nofile is {})", need - 1,
                            limit.rlim_cur),
                EMFILE);
  }
  return static_cast<int>(std::min<rlim_t>(limit.rlim_cur, std::numeric_limits<int>::max()));
}

std::vector<WantedNumber> Restorer::wanted_numbers() {
  std::vector<WantedNumber> wanted;
  std::set<int> numbers;
  for (image::schema::Descriptor::Reader descriptor :
       files_->get<image::schema::Files>().getDescriptors()) {
    auto fd = static_cast<int>(descriptor.getFd());
    if (fd < 0 || !numbers.insert(fd).second) {
      throw Error(Code::kCorrupt, "a descriptor has no number of its own");
    }
    wanted.push_back({fd, descriptor.getDescription(), descriptor.getCloseOnExec()});
  }
  if (settings_.session_number >= 0) {
    if (!numbers.insert(settings_.session_number).second) {
      throw Error(Code::kCorrupt, "the session socket has the number of another descriptor");
    }
    wanted.push_back({settings_.session_number, kSessionSocket, true});
  }
  int above = numbers.empty() ? 0 : *numbers.rbegin() + 1;
  for (const std::uint32_t hidden : find_hidden_targets())
    wanted.push_back({above++, hidden, true});
  for (auto& [path, directory] : directories_) {
    if (!directory.file) continue;
    directory.number = above++;
    wanted.push_back(
        {directory.number, kDirectories - static_cast<std::size_t>(directory.number), true});
  }
  return wanted;
}

void Restorer::open_common_part() {
  parts_->at_work = this;
  for (int i = 0; i < 3; ++i) {
    if (settings_.streams[i]) parts_->streams[i] = std::move(settings_.streams[i]);
  }
  if (parts_->pipes) return;
  TreeParts& parts = *parts_;
  parts.ptys.set_records(parts.files->get<image::schema::Files>(), parts.contents,
                         [&parts](const std::string& text) { parts.at_work->warn(text); });
  const auto& socket_record = parts.sockets;
  parts.pipes.emplace(parts.files->get<image::schema::Files>(), parts.contents, parts.open_files,
                      settings_.live,
                      [&parts](const std::string& text) { parts.at_work->warn(text); });
  parts.opened_sockets.emplace(
      socket_record ? socket_record->get<image::schema::Sockets>().getSockets() : Sockets::List(),
      parts.contents, parts.socket_names,
      [&parts](int type, int protocol) {
        return parts.at_work->make_socket_pair_inside(type, protocol);
      },
      [&parts](const UniqueFd& listener, image::schema::Socket::Reader record) {
        return parts.at_work->connect_inside(listener, record);
      },
      [&parts](const UniqueFd& listener, image::schema::Socket::Reader record, unsigned count) {
        return parts.at_work->connect_waiting(listener, record, count);
      },
      [&parts](std::uint32_t index) { return parts.at_work->take_description(index); },
      [&parts](const std::string& text) { parts.at_work->warn(text); });
}

void Restorer::settle_common_part() {
  parts_->pipes.reset();
  parts_->ptys.settle();
  parts_->opened_sockets.reset();
  parts_->contents.settle();
  // The guest's alone from here on: who looks for others that have its files finds none.
  parts_->contents = ContentStore();
}

UniqueFd Restorer::take_wanted(std::size_t file) {
  if (file == kSessionSocket) return settings_.session_socket.duplicate();
  if (file <= std::numeric_limits<std::uint32_t>::max()) {
    return take_description(static_cast<std::uint32_t>(file));
  }
  auto found = std::find_if(directories_.begin(), directories_.end(), [file](const auto& entry) {
    return static_cast<std::size_t>(entry.second.number) == kDirectories - file;
  });
  TELEFORK_ASSERT(found != directories_.end());
  return std::move(found->second.file);
}

void Restorer::restore_descriptors() {
  if (parts_->descriptions.empty()) {
    Restorer* alone = this;
    share_descriptors({&alone, 1});
  }
  find_directories();
  std::vector<WantedNumber> wanted = wanted_numbers();
  const int limit = make_room_for_descriptors(wanted);
  open_common_part();
  const std::size_t at_once = files_at_once();
  std::vector<int> given;
  std::vector<UniqueFd> opened;
  auto give = [&] {
    std::vector<int> numbers;
    for (const UniqueFd& file : opened) numbers.push_back(file.get());
    std::vector<int> there = blank_->give_fds(numbers);
    given.insert(given.end(), there.begin(), there.end());
    opened.clear();
  };
  std::map<std::size_t, std::size_t> places;  // of a description among what is given
  for (const WantedNumber& one : wanted) places.emplace(one.file, 0);
  std::size_t place = 0;
  for (auto& [file, at] : places) {
    at = place++;
    opened.push_back(take_wanted(file));
    if (opened.size() >= at_once) give();
  }
  give();
  if (!parts_->is_tree) settle_common_part();
  for (const std::uint32_t index : find_hidden_targets()) {
    auto number = std::find_if(wanted.rbegin(), wanted.rend(),
                               [index](const WantedNumber& one) { return one.file == index; });
    hidden_[index] = number->number;
  }
  for (WantedNumber& one : wanted) one.file = places.at(one.file);

  SyscallProgram program;
  program.call("closing the way in", SYS_close, {blank_->socket_number()});
  for (const NumberStep& step : plan_numbers(std::move(given), wanted, limit)) {
    add_step(step, program);
    run_if_large(program);
  }
  run_if_large(program, true);
}

// Whoever has a unix socket listen is whom SO_PEERCRED names to its clients: once more, as the user
// that it is by now.
void Restorer::restore_listeners() {
  if (!parts_->sockets) return;
  const Sockets::List sockets = parts_->sockets->get<image::schema::Sockets>().getSockets();
  const DescriptionList all = descriptions();
  SyscallProgram program;
  for (const auto& [number, descriptor] : descriptors_by_number()) {
    if (!holds_first(descriptor.getDescription())) continue;
    for (FileDescription::Reader description : all) {
      if (description.getId() != descriptor.getDescription()) continue;
      if (description.getKind() != FileDescription::Kind::SOCKET) continue;
      image::schema::Socket::Reader socket = sockets[description.getSocket()];
      if (socket.getFamily() != AF_UNIX || !socket.getListening()) continue;
      program.call("listening", SYS_listen, {number, socket.getBacklog()});
    }
  }
  run_if_large(program, true);
}

}  // namespace telefork::restore
