// What can be said only by the guest's own numbers, once they are in place: what epolls watch,
// inotify watches, timers of timerfds, who gets the signals of a descriptor.
#include <ctime>
#include <map>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "restore/event_files.h"
#include "restore/restorer.h"

namespace telefork::restore {
namespace {

using image::schema::FileDescription;
using tracee::Result;
using tracee::SyscallProgram;

// EP_PRIVATE_BITS in fs/eventpoll.c: what stays of the events of a target that is disabled.
constexpr std::uint32_t kPrivateBits = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;
constexpr std::uint32_t kAnyEvent = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP;

bool is_disabled(image::schema::EpollItem::Reader item) {
  return (item.getEvents() & EPOLLONESHOT) != 0 && (item.getEvents() & ~kPrivateBits) == 0;
}

}  // namespace

// By number: what is there.
std::map<int, image::schema::Descriptor::Reader> Restorer::descriptors_by_number() const {
  std::map<int, image::schema::Descriptor::Reader> numbers;
  for (image::schema::Descriptor::Reader one :
       files_->get<image::schema::Files>().getDescriptors()) {
    numbers.emplace(static_cast<int>(one.getFd()), one);
  }
  return numbers;
}

namespace {

// The targets of one epoll.
class Targets {
 public:
  Targets(int epoll, const std::map<int, image::schema::Descriptor::Reader>& numbers,
          const std::map<std::uint32_t, int>& hidden,
          ::capnp::List<FileDescription>::Reader descriptions)
      : epoll_(epoll), numbers_(numbers), hidden_(hidden), descriptions_(descriptions) {}

  // A standard stream may be here what cannot be watched: then the result says so.
  Result add(image::schema::EpollItem::Reader item, std::uint32_t events,
             SyscallProgram& program) const {
    const int number = static_cast<int>(item.getFd());
    auto there = numbers_.find(number);
    if (there != numbers_.end() && there->second.getDescription() == item.getDescription()) {
      return control(item, EPOLL_CTL_ADD, events, program);
    }
    // It was added by a number that has become another's, or nobody's, since: for a moment it has
    // that again.
    std::string name = fmt::format("restoring target {} of epoll {}", number, epoll_);
    const bool taken = there != numbers_.end();
    Result aside{0};
    if (taken) aside = program.call(name, SYS_fcntl, {number, F_DUPFD_CLOEXEC, 0});
    program.call_expecting(name, number, SYS_dup3, {find(item), number, O_CLOEXEC});
    Result result = control(item, EPOLL_CTL_ADD, events, program);
    if (!taken) {
      program.call(name, SYS_close, {number});
      return result;
    }
    program.call_expecting(name, number, SYS_dup3,
                           {aside, number, there->second.getCloseOnExec() ? O_CLOEXEC : 0});
    program.call(name, SYS_close, {aside});
    return result;
  }

  Result control(image::schema::EpollItem::Reader item, int operation, std::uint32_t events,
                 SyscallProgram& program) const {
    epoll_event event{};
    event.events = events;
    event.data.u64 = item.getData();
    std::string name = fmt::format("restoring target {} of epoll {}", item.getFd(), epoll_);
    std::initializer_list<tracee::Argument> arguments = {epoll_, operation, item.getFd(),
                                                         program.object(event)};
    return is_stream(item) ? program.call_any(name, SYS_epoll_ctl, arguments)
                           : program.call(name, SYS_epoll_ctl, arguments);
  }

  bool is_stream(image::schema::EpollItem::Reader item) const {
    return descriptions_[item.getDescription()].getKind() == FileDescription::Kind::STDIO;
  }

  // What stands for it here cannot be watched, and nothing ever happens to it.
  bool is_left_home(image::schema::EpollItem::Reader item) const {
    return descriptions_[item.getDescription()].getKind() == FileDescription::Kind::LEFT_HOME;
  }

 private:
  int find(image::schema::EpollItem::Reader item) const {
    for (const auto& [number, descriptor] : numbers_) {
      if (descriptor.getDescription() == item.getDescription()) return number;
    }
    auto hidden = hidden_.find(item.getDescription());
    if (hidden != hidden_.end()) return hidden->second;
    throw Error(Code::kCorrupt, "an epoll watches what has no descriptor");
  }

  int epoll_;
  const std::map<int, image::schema::Descriptor::Reader>& numbers_;
  const std::map<std::uint32_t, int>& hidden_;
  ::capnp::List<FileDescription>::Reader descriptions_;
};

}  // namespace

// One that has told its only event watches nothing, which epoll_ctl(2) cannot ask for: it always
// adds errors and hang-ups. So it is made to tell an event, where there is any to be told.
void Restorer::restore_disabled_targets(int epoll, FileDescription::Reader description) {
  const auto numbers = descriptors_by_number();
  Targets targets(epoll, numbers, hidden_, descriptions());
  for (image::schema::EpollItem::Reader item : description.getEpoll()) {
    if (!is_disabled(item) || targets.is_left_home(item)) continue;
    SyscallProgram program;
    tracee::Data event = program.buffer(sizeof(epoll_event));
    targets.add(item, item.getEvents() | kAnyEvent, program);
    Result told =
        program.call("disabling a target of an epoll", SYS_epoll_pwait, {epoll, event, 1, 0, 0, 0});
    if (blank_->stub().run(program).result(told) == 1) continue;
    SyscallProgram quiet;
    targets.control(item, EPOLL_CTL_MOD, item.getEvents(), quiet);
    blank_->stub().run(quiet);
  }
}

void Restorer::restore_targets(int epoll, FileDescription::Reader description) {
  const auto numbers = descriptors_by_number();
  Targets targets(epoll, numbers, hidden_, descriptions());
  SyscallProgram program;
  std::vector<std::pair<image::schema::EpollItem::Reader, Result>> streams;
  for (image::schema::EpollItem::Reader item : description.getEpoll()) {
    if (is_disabled(item) || targets.is_left_home(item)) continue;
    // Their results are looked at, and so kept in one program.
    const bool stream = targets.is_stream(item);
    Result result = targets.add(item, item.getEvents(), program);
    if (stream) streams.emplace_back(item, result);
    if (streams.empty()) run_if_large(program);
  }
  if (program.empty()) return;
  tracee::ProgramRun run = blank_->stub().run(program);
  for (const auto& [item, result] : streams) {
    if (run.result(result) >= 0) continue;
    warn(fmt::format("its epoll {} does not watch fd {}: what that is here cannot be watched",
                     epoll, item.getFd()));
  }
}

void Restorer::restore_event_files() {
  const DescriptionList all = descriptions();
  SyscallProgram program;
  std::vector<bool> done(all.size());
  for (const auto& [number, descriptor] : descriptors_by_number()) {
    FileDescription::Reader description = all[descriptor.getDescription()];
    if (done[descriptor.getDescription()] || !holds_first(descriptor.getDescription())) continue;
    done[descriptor.getDescription()] = true;
    if (description.getKind() == FileDescription::Kind::EPOLL) {
      restore_disabled_targets(number, description);
      restore_targets(number, description);
    } else if (description.getKind() == FileDescription::Kind::INOTIFY) {
      const auto outside = directories_.find("/");
      add_watches(number, description, outside == directories_.end() ? -1 : outside->second.number,
                  program);
    }
  }
  run_if_large(program, true);
}

std::int64_t Restorer::read_guest_clock(int clock) {
  SyscallProgram program;
  tracee::Data data = program.buffer(sizeof(timespec));
  program.call("reading a clock", SYS_clock_gettime, {clock, data});
  auto time = blank_->stub().run(program).object<timespec>(data);
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

void Restorer::restore_timer_files() {
  const DescriptionList all = descriptions();
  std::vector<bool> done(all.size());
  SyscallProgram program;
  for (const auto& [number, descriptor] : descriptors_by_number()) {
    FileDescription::Reader description = all[descriptor.getDescription()];
    if (description.getKind() != FileDescription::Kind::TIMERFD) continue;
    if (done[descriptor.getDescription()] || !holds_first(descriptor.getDescription())) continue;
    done[descriptor.getDescription()] = true;
    auto timer = description.getTimer();
    const bool absolute = (timer.getFlags() & TFD_TIMER_ABSTIME) != 0;
    add_timer_file(number, timer, absolute ? read_guest_clock(timer.getClock()) : 0, program);
    run_if_large(program);
  }
  run_if_large(program, true);
}

// As the guest knows it. 0: it is none of the guest's.
pid_t Restorer::owner_of(FileDescription::Reader description) const {
  const auto owner = static_cast<std::uint32_t>(description.getOwner());
  const auto id = static_cast<pid_t>(owner);
  switch (description.getOwnerType()) {
    case F_OWNER_TID:
      for (const image::Record& thread : threads_) {
        if (thread.get<image::schema::Thread>().getTid() != owner) continue;
        return owner == process().getPid() ? blank_->guest_pid() : static_cast<pid_t>(owner);
      }
      return parts_->threads.contains(id) ? id : 0;
    case F_OWNER_PID:
      if (parts_->pids.contains(id)) return id;
      return owner == process().getPid() ? blank_->guest_pid() : 0;
    default:
      if (auto group = parts_->groups.find(id); group != parts_->groups.end()) {
        return group->second;
      }
      if (owner != process().getPgid()) return 0;
      return kernel::read_status(blank_->pid()).ns_pgids.back();
  }
}

void Restorer::restore_owners() {
  const DescriptionList all = descriptions();
  std::vector<bool> done(all.size());
  SyscallProgram program;
  for (const auto& [number, descriptor] : descriptors_by_number()) {
    FileDescription::Reader description = all[descriptor.getDescription()];
    if (done[descriptor.getDescription()] || !holds_first(descriptor.getDescription())) continue;
    done[descriptor.getDescription()] = true;
    // Of a standard stream the description is not the guest's alone.
    if (description.getKind() == FileDescription::Kind::STDIO) continue;
    std::string name = fmt::format("restoring the owner of fd {}", number);
    if (description.getOwner() != 0) {
      f_owner_ex owner{};
      owner.type = static_cast<decltype(owner.type)>(description.getOwnerType());
      owner.pid = owner_of(description);
      if (owner.pid == 0) {
        warn(fmt::format("nobody gets the signals of its fd {}: that was process {} there", number,
                         description.getOwner()));
      } else {
        program.call(name, SYS_fcntl, {number, F_SETOWN_EX, program.object(owner)});
      }
    }
    if (description.getOwnerSignal() != 0) {
      program.call(name, SYS_fcntl, {number, F_SETSIG, description.getOwnerSignal()});
    }
    if ((description.getFlags() & O_ASYNC) != 0) {
      constexpr unsigned kSettable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | O_ASYNC;
      program.call(name, SYS_fcntl, {number, F_SETFL, description.getFlags() & kSettable});
    }
    run_if_large(program);
  }
  run_if_large(program, true);
}

}  // namespace telefork::restore
