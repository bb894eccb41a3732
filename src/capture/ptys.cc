// Pseudo-terminals, with what lies in them. It is read and put back again: nothing runs meanwhile
// that could see it.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/error.h"
#include "capture/capture.h"
#include "capture/session_terminals.h"
#include "kernel/pidfd.h"
#include "kernel/terminal.h"

namespace telefork::capture {
namespace {

using image::schema::Pty;
using image::schema::PtyPiece;
using kernel::TerminalPiece;
using kernel::TerminalState;

PtyPiece::End end_of(const TerminalPiece& piece) {
  switch (piece.end) {
    case TerminalPiece::End::kOpen:
      return PtyPiece::End::OPEN;
    case TerminalPiece::End::kDelimiter:
      return PtyPiece::End::DELIMITER;
    case TerminalPiece::End::kEndOfFile:
      return PtyPiece::End::END_OF_FILE;
  }
  return PtyPiece::End::OPEN;
}

Pty::Stop stop_of(TerminalState::Stop stop) {
  switch (stop) {
    case TerminalState::Stop::kNo:
      return Pty::Stop::NO;
    case TerminalState::Stop::kByCharacter:
      return Pty::Stop::BY_CHARACTER;
    case TerminalState::Stop::kByCall:
      return Pty::Stop::BY_CALL;
  }
  return Pty::Stop::NO;
}

// It ran since it was looked at first, and may have been given more than can be told.
void check_trouble(const UniqueFd& master, const UniqueFd& slave, const std::string& name) {
  if (kernel::terminal_trouble(master, slave) != kernel::TerminalTrouble::kNone) {
    throw Error(Code::kRefused, refuse(name, Reason::kUnread).text());
  }
}

void fill_state(const TerminalState& state, Pty::Builder record) {
  record.setSettings(::capnp::Data::Reader(reinterpret_cast<const kj::byte*>(state.settings.data()),
                                           state.settings.size()));
  record.setPackets(state.packets);
  record.setLocked(state.locked);
  record.setMasterExclusive(state.master_exclusive);
  record.setSlaveExclusive(state.slave_exclusive);
  record.setMasterStopped(state.master_stopped);
  record.setSlaveStop(stop_of(state.slave_stop));
  auto pieces = record.initInput(static_cast<unsigned>(state.pieces.size()));
  for (unsigned i = 0; i < pieces.size(); ++i) {
    pieces[i].setSize(state.pieces[i].size);
    pieces[i].setEnd(end_of(state.pieces[i]));
  }
}

// Exclusive use (TIOCEXCL) keeps out all but who has CAP_SYS_ADMIN (drivers/tty/tty_io.c,
// tty_reopen): it is undone meanwhile, by the slave that somebody has.
UniqueFd open_slave(const PtyObject& pty, const UniqueFd& master) {
  constexpr int kFlags = O_RDWR | O_NONBLOCK;
  const UniqueFd held =
      pty.slave_pid == 0 ? UniqueFd() : kernel::try_take_fd(pty.slave_pid, pty.slave_fd);
  if (!held || !kernel::is_exclusive(held)) return kernel::open_slave(master, kFlags);
  kernel::set_exclusive(held, false);
  try {
    UniqueFd slave = kernel::open_slave(master, kFlags);
    kernel::set_exclusive(held, true);
    return slave;
  } catch (...) {
    kernel::set_exclusive(held, true);
    throw;
  }
}

}  // namespace

void Capture::fill_pty(const PtyObject& pty, Pty::Builder record, image::RecordSink& sink) {
  record.setNumber(pty.number);
  record.setHungUp(pty.hung_up);
  if (pty.hung_up) return;
  const std::string name = fmt::format("terminal /dev/pts/{}", pty.number);
  const UniqueFd master = kernel::take_fd(pty.pid, pty.fd);
  if (!master) throw Error(Code::kGone, name + " has just been closed");
  const UniqueFd slave = open_slave(pty, master);
  struct stat stat;
  if (::fstat(slave.get(), &stat) != 0) throw_errno("looking at " + name);
  if (stat.st_dev != pty.device || stat.st_ino != pty.inode) {
    throw Error(Code::kRefused, refuse(name, Reason::kDevice).text());
  }
  record.setMode(stat.st_mode & 07777);
  record.setUid(stat.st_uid);
  record.setGid(stat.st_gid);
  fill_window(master, record.initWindow());
  check_trouble(master, slave, name);
  TerminalState state = kernel::read_terminal(master, slave);
  fill_state(state, record);
  std::vector<std::byte>& content = state.input;
  content.insert(content.end(), state.output.begin(), state.output.end());
  if (!content.empty()) record.setContentId(write_bytes(content, sink));
}

void Capture::write_ptys(image::schema::Files::Builder files, image::RecordSink& sink) {
  auto list = files.initPtys(static_cast<unsigned>(survey_.ptys.size()));
  for (unsigned i = 0; i < list.size(); ++i) fill_pty(survey_.ptys[i], list[i], sink);
}

}  // namespace telefork::capture
