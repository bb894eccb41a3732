#include "restore/ptys.h"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/error.h"
#include "kernel/procfs_file.h"
#include "restore/files.h"

namespace telefork::restore {
namespace {

constexpr unsigned kLargeFile = 0100000;  // what open(2) adds, and the C library hides

using image::schema::FileDescription;
using image::schema::Pty;
using image::schema::PtyPiece;
using kernel::TerminalPiece;
using kernel::TerminalState;

UniqueFd open_master() {
  UniqueFd master = open_file("/dev/ptmx", O_RDWR | O_NOCTTY);
  int lock = 0;
  if (::ioctl(master.get(), TIOCSPTLCK, &lock) != 0) throw_errno("opening a terminal's lock");
  return master;
}

// The kernel gives out the lowest number that is free (devpts): those below it are taken meanwhile.
UniqueFd open_master_numbered(unsigned wanted) {
  constexpr unsigned kMostTried = 4096;  // kernel.pty.max, unless it was raised
  UniqueFd master = open_master();
  std::vector<UniqueFd> lower;
  unsigned number = kernel::terminal_number(master);
  while (number < wanted && wanted < kMostTried) {
    lower.push_back(std::move(master));
    try {
      master = open_master();
    } catch (const Error& error) {
      if (error.error() != ENOSPC && error.code() != Code::kResources) throw;
      break;
    }
    number = kernel::terminal_number(master);
  }
  if (number == wanted || lower.empty()) return master;
  return std::move(lower.front());
}

winsize window_of(image::schema::WindowSize::Reader record) {
  return {record.getRows(), record.getColumns(), record.getXPixels(), record.getYPixels()};
}

TerminalState::Stop stop_of(Pty::Stop stop) {
  switch (stop) {
    case Pty::Stop::BY_CHARACTER:
      return TerminalState::Stop::kByCharacter;
    case Pty::Stop::BY_CALL:
      return TerminalState::Stop::kByCall;
    case Pty::Stop::NO:
      return TerminalState::Stop::kNo;
  }
  throw Error(Code::kCorrupt, "a terminal is stopped in no way");
}

TerminalPiece::End end_of(PtyPiece::End end) {
  switch (end) {
    case PtyPiece::End::OPEN:
      return TerminalPiece::End::kOpen;
    case PtyPiece::End::DELIMITER:
      return TerminalPiece::End::kDelimiter;
    case PtyPiece::End::END_OF_FILE:
      return TerminalPiece::End::kEndOfFile;
  }
  throw Error(Code::kCorrupt, "what lay in a terminal ends in no way");
}

TerminalState decode(Pty::Reader record, const std::vector<std::byte>& content) {
  TerminalState state;
  const auto settings =
      std::as_bytes(std::span(record.getSettings().begin(), record.getSettings().size()));
  state.settings.assign(settings.begin(), settings.end());
  state.window = window_of(record.getWindow());
  state.packets = record.getPackets();
  state.locked = record.getLocked();
  state.master_exclusive = record.getMasterExclusive();
  state.slave_exclusive = record.getSlaveExclusive();
  state.master_stopped = record.getMasterStopped();
  state.slave_stop = stop_of(record.getSlaveStop());
  std::size_t input = 0;
  for (PtyPiece::Reader piece : record.getInput()) {
    state.pieces.push_back({piece.getSize(), end_of(piece.getEnd())});
    input += piece.getSize();
  }
  if (input > content.size()) throw Error(Code::kCorrupt, "a terminal holds less than it says");
  const auto middle = content.begin() + static_cast<std::ptrdiff_t>(input);
  state.input.assign(content.begin(), middle);
  state.output.assign(middle, content.end());
  return state;
}

// Its master goes at once: of whichever terminal it was, it is of none any more.
UniqueFd open_hung_up(unsigned flags) {
  UniqueFd master = open_master();
  return kernel::open_slave(master, static_cast<int>(flags));
}

}  // namespace

Ptys::Ends& Ptys::take(std::uint32_t number, UniqueFd master) {
  Ends& ends = begun_[number];
  ends.master = std::move(master);
  ends.slave = kernel::open_slave(ends.master, O_RDWR | O_NONBLOCK);
  ends.number = kernel::terminal_number(ends.master);
  ends.path = fmt::format("/dev/pts/{}", ends.number);
  return ends;
}

Ptys::Ends& Ptys::make(std::uint32_t number) {
  auto begun = begun_.find(number);
  return begun != begun_.end() ? begun->second : take(number, open_master_numbered(number));
}

void Ptys::set_size(image::schema::SessionTerminal::Reader terminal, const Ends& ends) const {
  winsize window = window_of(terminal.getWindow());
  if (::ioctl(ends.slave.get(), TIOCSWINSZ, &window) != 0) {
    throw_errno("setting the size of a terminal");
  }
}

const std::string& Ptys::begin(image::schema::SessionTerminal::Reader terminal) {
  Ends& ends = make(terminal.getNumber());
  set_size(terminal, ends);
  return ends.path;
}

void Ptys::take_back(image::schema::SessionTerminal::Reader terminal, const UniqueFd& master) {
  Ends& ends = take(terminal.getNumber(), master.duplicate());
  ends.was_here = true;
  kernel::empty_terminal(ends.master, ends.slave);
  set_size(terminal, ends);
}

void Ptys::set_records(image::schema::Files::Reader files, const ContentStore& contents,
                       Warn warn) {
  files_ = files;
  contents_ = &contents;
  warn_ = std::move(warn);
}

void Ptys::give_owner(Pty::Reader record, const Ends& ends) const {
  struct stat stat;
  if (::fstat(ends.slave.get(), &stat) != 0) throw_errno("looking at " + ends.path);
  const bool other = stat.st_uid != record.getUid() || stat.st_gid != record.getGid();
  if (other && ::fchown(ends.slave.get(), record.getUid(), record.getGid()) != 0) {
    warn_(fmt::format("{} belongs to user {} and group {} here, not to {} and {}", ends.path,
                      stat.st_uid, stat.st_gid, record.getUid(), record.getGid()));
  }
  if ((stat.st_mode & 07777) != record.getMode() &&
      ::fchmod(ends.slave.get(), record.getMode() & 07777) != 0) {
    warn_(fmt::format("{} has permissions {:o} here, not {:o}", ends.path, stat.st_mode & 07777,
                      record.getMode()));
  }
}

void Ptys::fill(Pty::Reader record, Ends& ends) {
  if (std::exchange(ends.filled, true)) return;
  if (ends.number != record.getNumber() && !ends.was_here) {
    warn_(fmt::format("its terminal /dev/pts/{} is {} here", record.getNumber(), ends.path));
  }
  std::vector<std::byte> content;
  if (record.getContentId() != 0) content = contents_->read(record.getContentId());
  ends.state = decode(record, content);
  kernel::write_terminal(ends.master, ends.slave, ends.state);
  give_owner(record, ends);
}

Ptys::Ends& Ptys::ends_of(std::uint32_t index, Pty::Reader record) {
  for (std::uint32_t i = 0; i < index; ++i) {
    if (!files_.getPtys()[i].getHungUp() && files_.getPtys()[i].getNumber() == record.getNumber()) {
      throw Error(Code::kCorrupt, "two terminals have one number");
    }
  }
  Ends& ends = make(record.getNumber());
  fill(record, ends);
  return ends;
}

UniqueFd Ptys::open_end(FileDescription::Reader description) {
  if (description.getPty() >= files_.getPtys().size()) {
    throw Error(Code::kCorrupt, "an end is of a terminal that is not in the image");
  }
  Pty::Reader record = files_.getPtys()[description.getPty()];
  const unsigned flags = kept_flags(description) | (description.getFlags() & kLargeFile);
  const bool master = description.getKind() == FileDescription::Kind::PTY_MASTER;
  if (record.getHungUp()) {
    if (master) throw Error(Code::kCorrupt, "a terminal that was hung up has a master");
    return open_hung_up(flags);
  }
  Ends& ends = ends_of(description.getPty(), record);
  if (!master && (flags & O_PATH) != 0) return open_file(ends.path, O_PATH);
  if (!master) return kernel::open_slave(ends.master, static_cast<int>(flags));
  UniqueFd end = ends.master.duplicate();
  if (::fcntl(end.get(), F_SETFL, flags) != 0) throw_errno("setting the flags of a terminal");
  return end;
}

void Ptys::settle() {
  for (auto& [number, ends] : begun_) {
    if (ends.filled) kernel::restrict_terminal(ends.master, ends.slave, ends.state);
  }
  begun_.clear();
}

}  // namespace telefork::restore
