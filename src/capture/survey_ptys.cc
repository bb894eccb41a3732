// Pseudo-terminals: whose slave is of which master, and whether all that has a part in them goes
// along.
#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/error.h"
#include "capture/survey_moving.h"
#include "kernel/pidfd.h"
#include "kernel/terminal.h"

namespace telefork::capture {
namespace {

using Kind = image::schema::FileDescription::Kind;

// Documentation/admin-guide/devices.txt.
constexpr unsigned kOwnTerminalMajor = 5;
constexpr unsigned kOwnTerminal = 0;   // /dev/tty
constexpr unsigned kMaster = 2;        // /dev/ptmx
constexpr unsigned kSlaveMajor = 136;  // UNIX98_PTY_SLAVE_MAJOR

constexpr char kSlaves[] = "/dev/pts";

std::string slave_name(unsigned number) { return fmt::format("{}/{}", kSlaves, number); }

bool is_hung_up(const UniqueFd& terminal) {
  pollfd one{terminal.get(), 0, 0};
  if (::poll(&one, 1, 0) < 0) throw_errno("asking a terminal");
  return (one.revents & POLLHUP) != 0;
}

// As /proc/PID/stat has it: new_encode_dev() of include/linux/kdev_t.h.
std::optional<unsigned> slave_number(unsigned device) {
  if (((device >> 8) & 0xfff) != kSlaveMajor) return std::nullopt;
  return (device & 0xff) | ((device >> 12) & 0xfff00);
}

}  // namespace

struct MovingDescriptors::PtyEnd {
  bool master = false;
  bool hung_up = false;
  bool own_terminal = false;
  unsigned number = 0;
};

// Nothing: it is no end of a pseudo-terminal, or cannot be told.
std::optional<MovingDescriptors::PtyEnd> MovingDescriptors::find_pty(const OpenFile& open) {
  const unsigned group = major(open.stat.st_rdev);
  const unsigned which = minor(open.stat.st_rdev);
  const bool slave = group == kSlaveMajor;
  if (!slave && (group != kOwnTerminalMajor || (which != kMaster && which != kOwnTerminal))) {
    return std::nullopt;
  }
  const bool placeholder = (open.info.flags & O_PATH) != 0;
  if (placeholder) {
    const bool named = slave && open.stat.st_nlink > 0;
    return named ? std::optional(PtyEnd{false, false, false, which}) : std::nullopt;
  }
  const UniqueFd taken = kernel::try_take_fd(survey_.pid, open.fd);
  if (!taken) return std::nullopt;
  if (!slave && which == kMaster) {
    PtyEnd end{true, false, false, 0};
    if (::ioctl(taken.get(), TIOCGPTN, &end.number) != 0) return std::nullopt;
    return end;
  }
  unsigned device = 0;
  const bool own_terminal = !slave;
  if (::ioctl(taken.get(), TIOCGDEV, &device) != 0) {
    return errno == EIO && is_hung_up(taken) ? std::optional(PtyEnd{false, true, own_terminal, 0})
                                             : std::nullopt;
  }
  const std::optional<unsigned> number = slave_number(device);
  // Whose terminal /dev/tty was can be told only where that is this one's still.
  const bool known = !own_terminal || static_cast<unsigned>(survey_.stat.tty_nr) == device;
  if (!number || !known) return std::nullopt;
  return PtyEnd{false, false, own_terminal, *number};
}

const std::map<unsigned, OutsideHolders::Place>& MovingDescriptors::masters() {
  if (masters_) return *masters_;
  masters_.emplace();
  for (const char* name : {"/dev/ptmx", "/dev/pts/ptmx"}) {
    for (const OutsideHolders::Place& place : survey_.outside.places(name)) {
      const UniqueFd taken = kernel::try_take_fd(place.pid, place.fd);
      unsigned number = 0;
      if (!taken || ::ioctl(taken.get(), TIOCGPTN, &number) != 0) continue;
      masters_->emplace(number, place);
    }
  }
  return *masters_;
}

bool MovingDescriptors::has_both_sides(const OpenFile& open) {
  const std::optional<PtyEnd> end = find_pty(open);
  if (!end || end->hung_up || !masters().contains(end->number)) return false;
  PtyObject pty;
  pty.number = end->number;
  pty.pid = masters().at(end->number).pid;
  pty.fd = masters().at(end->number).fd;
  struct stat slave;
  if (::stat(slave_name(pty.number).c_str(), &slave) != 0) return false;
  pty.device = slave.st_dev;
  pty.inode = slave.st_ino;
  return holder_of_pty(pty) == 0;
}

pid_t MovingDescriptors::holder_of_pty(const PtyObject& pty) {
  struct stat master;
  if (::stat(kernel::fd_open_path(pty.pid, pty.fd).c_str(), &master) != 0) return 0;
  if (pid_t other = survey_.outside.find_master(pty.pid, pty.fd, master.st_rdev)) return other;
  return survey_.outside.find_slave(pty.device, pty.inode);
}

// `pty` has its number, and where its master is.
std::optional<Obstacle> MovingDescriptors::look_at_new_pty(PtyObject& pty) {
  const std::string name = slave_name(pty.number);
  const UniqueFd master = kernel::take_fd(pty.pid, pty.fd);
  struct stat slave;
  if (!master || ::stat(name.c_str(), &slave) != 0) return Obstacle{Reason::kDevice, ""};
  pty.device = slave.st_dev;
  pty.inode = slave.st_ino;
  if (pid_t other = holder_of_pty(pty)) return Obstacle{Reason::kHolder, std::to_string(other)};
  if ((::fcntl(master.get(), F_GETFL) & O_ACCMODE) != O_RDWR) {
    return Obstacle{Reason::kTerminal, "its master is not open for reading and writing"};
  }
  UniqueFd one_slave;
  for (const OutsideHolders::Place& place : survey_.outside.places(name)) {
    one_slave = kernel::try_take_fd(place.pid, place.fd);
    if (one_slave && (::fcntl(one_slave.get(), F_GETFL) & O_PATH) == 0) {
      pty.slave_pid = place.pid;
      pty.slave_fd = place.fd;
      break;
    }
    one_slave.reset();
  }
  // To look into it opens it, and a master then sees the end of a slave that it waits for.
  if (!one_slave && survey_.outside.places("/dev/tty").empty() && !is_hung_up(master)) {
    return Obstacle{Reason::kTerminal, "its slave was never opened"};
  }
  switch (kernel::terminal_trouble(master, one_slave)) {
    case kernel::TerminalTrouble::kUnusual:
      return Obstacle{Reason::kTerminal, "its line discipline is none that lives in it alone"};
    case kernel::TerminalTrouble::kUnread:
      return Obstacle{Reason::kUnread, ""};
    case kernel::TerminalTrouble::kNone:
      return std::nullopt;
  }
  return std::nullopt;
}

Sorted MovingDescriptors::sort_pty(const OpenFile& open, Description description) {
  const std::optional<PtyEnd> end = find_pty(open);
  if (!end) return Obstacle{Reason::kDevice, ""};
  description.kind = end->master ? Kind::PTY_MASTER : Kind::PTY_SLAVE;
  description.own_terminal = end->own_terminal;
  description.position = 0;
  description.object = survey_.ptys.size();
  PtyObject pty;
  pty.hung_up = end->hung_up;
  pty.number = end->number;
  if (pty.hung_up) {
    survey_.ptys.push_back(pty);
    return description;
  }
  for (std::size_t i = 0; i < survey_.ptys.size(); ++i) {
    const PtyObject& known = survey_.ptys[i];
    if (known.hung_up || known.number != end->number) continue;
    const bool same = end->master || end->own_terminal ||
                      (known.device == open.stat.st_dev && known.inode == open.stat.st_ino);
    if (!same) return Obstacle{Reason::kDevice, ""};
    description.object = i;
    return description;
  }
  auto master = masters().find(end->number);
  if (master == masters().end()) return Obstacle{Reason::kDevice, ""};
  pty.pid = master->second.pid;
  pty.fd = master->second.fd;
  if (auto obstacle = look_at_new_pty(pty)) return *obstacle;
  if (!end->master && !end->own_terminal &&
      (pty.device != open.stat.st_dev || pty.inode != open.stat.st_ino)) {
    return Obstacle{Reason::kDevice, ""};
  }
  survey_.ptys.push_back(pty);
  return description;
}

}  // namespace telefork::capture
