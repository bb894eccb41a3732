#include "kernel/terminal.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>

#include <asm/termbits.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::kernel {
namespace {

// drivers/tty/n_tty.c: what the line discipline keeps at most; the rest waits in front of it.
constexpr std::size_t kRoom = 4095;
// Of whole lines, which is all that is told where there are lines: with more the half one behind
// them may have no room.
constexpr std::size_t kRoomForLines = 3072;
// It keeps three bytes for one (PARMRK).
constexpr std::size_t kLargestByte = 3;
// Together in one of the kernel's buffers, where there is room at all (tty_buffer_alloc).
constexpr std::size_t kStep = 256;
constexpr int kSyncLimitMs = 10'000;
constexpr cc_t kDisabled = 0;  // __DISABLED_CHAR

void control(const UniqueFd& terminal, unsigned long request, void* argument, const char* what) {
  if (::ioctl(terminal.get(), request, argument) != 0) throw_errno(what);
}

void tell(const UniqueFd& terminal, unsigned long request, unsigned long argument,
          const char* what) {
  if (::ioctl(terminal.get(), request, argument) != 0) throw_errno(what);
}

termios2 read_settings(const UniqueFd& slave) {
  termios2 settings{};
  control(slave, TCGETS2, &settings, "reading the settings of a terminal");
  return settings;
}

void set(const UniqueFd& slave, termios2 settings) {
  control(slave, TCSETS2, &settings, "setting a terminal");
}

void set_packets(const UniqueFd& master, bool on) {
  int value = on ? 1 : 0;
  control(master, TIOCPKT, &value, "setting a terminal's packet mode");
}

bool flag(const UniqueFd& terminal, unsigned long request, const char* what) {
  int value = 0;
  control(terminal, request, &value, what);
  return value != 0;
}

bool has_lines(const termios2& settings) {
  return (settings.c_lflag & (ICANON | EXTPROC)) == ICANON;
}

// n_tty_set_termios(): then every byte is kept as it is.
bool is_plain(const termios2& settings) {
  return (settings.c_iflag & (ISTRIP | IUCLC | IGNCR | ICRNL | INLCR | IXON | PARMRK)) == 0 &&
         (settings.c_lflag & (ICANON | ISIG | ECHO)) == 0;
}

short poll_now(const UniqueFd& terminal, short events) {
  pollfd one{terminal.get(), events, 0};
  if (::poll(&one, 1, 0) < 0) throw_errno("asking a terminal");
  return one.revents;
}

// The settings under which nothing but these does anything: the end of a line, the end of what is
// read as one (VEOF), the byte that makes the next one mean nothing (VLNEXT), and the pair that
// tells when all has come that was written (VSTOP, VSTART).
class Neutral {
 public:
  explicit Neutral(const termios2& own) {
    settings_ = own;
    settings_.c_iflag = IXON;
    settings_.c_oflag = 0;
    settings_.c_lflag = ICANON | IEXTEN;
    std::fill(std::begin(settings_.c_cc), std::end(settings_.c_cc), kDisabled);
    settings_.c_cc[VEOL] = own.c_cc[VEOL];
    settings_.c_cc[VEOL2] = own.c_cc[VEOL2];
    cc_t next = 1;
    for (const int which : {VEOF, VLNEXT, VSTOP, VSTART}) {
      while (next == '\n' || next == own.c_cc[VEOL] || next == own.c_cc[VEOL2]) ++next;
      settings_.c_cc[which] = next++;
    }
  }

  const termios2& settings() const { return settings_; }
  std::byte code(int which) const { return std::byte{settings_.c_cc[which]}; }
  bool ends_line(std::byte one) const {
    const auto value = static_cast<cc_t>(one);
    return value == '\n' || (value != kDisabled &&
                             (value == settings_.c_cc[VEOL] || value == settings_.c_cc[VEOL2]));
  }
  void quote(std::span<const std::byte> bytes, std::vector<std::byte>& written) const {
    for (const std::byte one : bytes) {
      const bool special = ends_line(one) || one == code(VEOF) || one == code(VLNEXT) ||
                           one == code(VSTOP) || one == code(VSTART);
      if (special) written.push_back(code(VLNEXT));
      written.push_back(one);
    }
  }

 private:
  termios2 settings_{};
};

// A master may be one that waits (no O_NONBLOCK), and it is shared with who owns it: what there is
// room for is asked first.
void write_all(const UniqueFd& end, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    if ((poll_now(end, POLLOUT) & POLLOUT) == 0) {
      throw Error(Code::kFailed, "a terminal does not take back what lay in it");
    }
    const ssize_t count = ::write(end.get(), bytes.data(), std::min(bytes.size(), kStep));
    if (count <= 0) throw_errno("writing to a terminal");
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void append(std::vector<std::byte>& all, std::span<const std::byte> more) {
  all.insert(all.end(), more.begin(), more.end());
}

void read_output(const UniqueFd& master, std::vector<std::byte>& output) {
  std::array<std::byte, 4096> buffer;
  while ((poll_now(master, POLLIN) & POLLIN) != 0) {
    const ssize_t count = ::read(master.get(), buffer.data(), buffer.size());
    if (count <= 0) throw_errno("reading what lies in a terminal");
    append(output, std::span(buffer).first(static_cast<std::size_t>(count)));
  }
}

// One read(2). False: there is nothing.
bool read_piece(const UniqueFd& slave, bool lines, TerminalState& state) {
  std::array<std::byte, 8192> buffer;
  const ssize_t count = ::read(slave.get(), buffer.data(), buffer.size());
  if (count < 0 && errno == EAGAIN) return false;
  if (count < 0) throw_errno("reading what lies in a terminal");
  if (count == 0 && !lines) return false;  // VMIN is 0
  append(state.input, std::span(buffer).first(static_cast<std::size_t>(count)));
  state.pieces.push_back({static_cast<std::uint32_t>(count), TerminalPiece::End::kOpen});
  return true;
}

// Under its own settings: what is on its way in has to become what these make of it.
void read_input(const UniqueFd& slave, const termios2& own, TerminalState& state) {
  const bool lines = has_lines(own);
  const Neutral neutral(own);
  while (read_piece(slave, lines, state)) {
    if (!lines) continue;
    TerminalPiece& piece = state.pieces.back();
    const bool delimited = piece.size > 0 && neutral.ends_line(state.input.back());
    piece.end = delimited ? TerminalPiece::End::kDelimiter : TerminalPiece::End::kEndOfFile;
  }
}

// Nobody can read half a line before it ends: so it is ended. Whoever had typed a VLNEXT has quoted
// that end, and it takes another one.
void read_half_line(const UniqueFd& master, const UniqueFd& slave, const Neutral& neutral,
                    TerminalState& state) {
  const std::byte end[] = {neutral.code(VEOF)};
  write_all(master, end);
  const bool quoted = !read_piece(slave, true, state);
  if (quoted) {
    write_all(master, end);
    if (!read_piece(slave, true, state) || state.pieces.back().size == 0) {
      throw Error(Code::kFailed, "a terminal does not end a line");
    }
    state.input.pop_back();
    --state.pieces.back().size;
  }
  if (state.pieces.back().size == 0) state.pieces.pop_back();
}

// VSTOP and VSTART are taken out of what comes in as they are met there, which packet mode tells.
// It wakes who waits for POLLIN alone (pty_start() of drivers/tty/pty.c), and bytes may be there
// all the time: what is waited for is that wake-up.
void write_until_told(const UniqueFd& master, std::span<const std::byte> marks,
                      unsigned char wanted) {
  const UniqueFd news(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{EPOLLIN | EPOLLPRI | EPOLLET, {}};
  if (!news || ::epoll_ctl(news.get(), EPOLL_CTL_ADD, master.get(), &event) != 0) {
    throw_errno("watching a terminal");
  }
  set_packets(master, true);
  write_all(master, marks);
  unsigned char status = 0;
  while ((status & wanted) == 0) {
    if ((poll_now(master, POLLPRI) & POLLPRI) != 0) {
      if (::read(master.get(), &status, 1) != 1) throw_errno("reading the status of a terminal");
      continue;
    }
    const int ready = ::epoll_wait(news.get(), &event, 1, kSyncLimitMs);
    if (ready < 0 && errno != EINTR) throw_errno("waiting for a terminal");
    if (ready == 0) throw Error(Code::kFailed, "a terminal does not take what is written to it");
  }
  set_packets(master, false);
}

void wait_until_taken(const UniqueFd& master, const Neutral& neutral) {
  const std::byte marks[] = {neutral.code(VSTOP), neutral.code(VSTART)};
  write_until_told(master, marks, TIOCPKT_START);
}

void write_input(const UniqueFd& master, const Neutral& neutral, const TerminalState& state,
                 bool lines, std::span<const std::byte> input) {
  std::vector<std::byte> written;
  std::size_t units = 0;
  if (!lines) {
    neutral.quote(input, written);
  } else {
    for (const TerminalPiece& piece : state.pieces) {
      std::span<const std::byte> part = input.first(piece.size);
      input = input.subspan(piece.size);
      units += piece.size;
      const bool delimited = piece.end == TerminalPiece::End::kDelimiter;
      neutral.quote(delimited ? part.first(part.size() - 1) : part, written);
      if (delimited) written.push_back(part.back());
      if (piece.end == TerminalPiece::End::kEndOfFile) {
        written.push_back(neutral.code(VEOF));
        ++units;
      }
    }
  }
  write_all(master, written);
  // What is full of lines takes not even these.
  if (units < kRoom) wait_until_taken(master, neutral);
}

TerminalState read_modes(const UniqueFd& master, const UniqueFd& slave, const termios2& own) {
  TerminalState state;
  const auto* bytes = reinterpret_cast<const std::byte*>(&own);
  state.settings.assign(bytes, bytes + sizeof(own));
  control(slave, TIOCGWINSZ, &state.window, "asking for the size of a terminal");
  state.packets = flag(master, TIOCGPKT, "asking for a terminal's packet mode");
  state.locked = flag(master, TIOCGPTLCK, "asking for a terminal's lock");
  state.master_exclusive = is_exclusive(master);
  state.slave_exclusive = is_exclusive(slave);
  return state;
}

void take_out(const UniqueFd& master, const UniqueFd& slave, const termios2& own,
              TerminalState& state) {
  read_input(slave, own, state);
  read_output(master, state.output);
  // With nothing more on its way out there is room, unless it was stopped.
  if ((poll_now(slave, POLLOUT) & POLLOUT) == 0) {
    tell(slave, TCXONC, TCOON, "letting a terminal go on");
    state.slave_stop = (poll_now(slave, POLLOUT) & POLLOUT) != 0
                           ? TerminalState::Stop::kByCall
                           : TerminalState::Stop::kByCharacter;
  }
  state.master_stopped = (poll_now(master, POLLOUT) & POLLOUT) == 0;
  if (state.master_stopped) tell(master, TCXONC, TCOON, "letting a terminal go on");
  const Neutral neutral(own);
  // Without IXON, which lets go on what VSTOP has stopped.
  termios2 started = neutral.settings();
  started.c_iflag = 0;
  set(slave, started);
  if (has_lines(own)) read_half_line(master, slave, neutral, state);
  read_output(master, state.output);  // echoes that had waited
}

termios2 decode_settings(const TerminalState& state) {
  termios2 own{};
  if (state.settings.size() != sizeof(own)) {
    throw Error(Code::kCorrupt, "the settings of a terminal have another size");
  }
  std::memcpy(&own, state.settings.data(), sizeof(own));
  return own;
}

}  // namespace

unsigned terminal_number(const UniqueFd& master) {
  unsigned number = 0;
  control(master, TIOCGPTN, &number, "asking for the number of a terminal");
  return number;
}

UniqueFd open_slave(const UniqueFd& master, int flags) {
  const bool locked = flag(master, TIOCGPTLCK, "asking for a terminal's lock");
  int lock = 0;
  if (locked) control(master, TIOCSPTLCK, &lock, "opening a terminal's lock");
  // Here O_CLOEXEC would become one of the flags that F_GETFL and /proc tell.
  UniqueFd slave(::ioctl(master.get(), TIOCGPTPEER, flags | O_NOCTTY));
  const int error = errno;
  if (slave) ::fcntl(slave.get(), F_SETFD, FD_CLOEXEC);
  lock = 1;
  if (locked) control(master, TIOCSPTLCK, &lock, "locking a terminal");
  if (!slave) throw_errno("opening the slave of a terminal", error);
  return slave;
}

bool is_exclusive(const UniqueFd& end) {
  return flag(end, TIOCGEXCL, "asking whether a terminal is exclusive");
}

void set_exclusive(const UniqueFd& end, bool exclusive) {
  tell(end, exclusive ? TIOCEXCL : TIOCNXCL, 0, "making a terminal exclusive");
}

TerminalTrouble terminal_trouble(const UniqueFd& master, const UniqueFd& slave) {
  int discipline = 0;
  control(master, TIOCGETD, &discipline, "asking for a terminal's line discipline");
  if (discipline != N_TTY) return TerminalTrouble::kUnusual;
  termios2 own{};
  control(master, TCGETS2, &own, "reading the settings of a terminal");
  // Of both ends this is the slave's.
  if (own.c_line != N_TTY) return TerminalTrouble::kUnusual;
  termios locked{};
  control(master, TIOCGLCKTRMIOS, &locked, "asking for a terminal's locked settings");
  const termios none{};
  if (std::memcmp(&locked, &none, sizeof(none)) != 0) return TerminalTrouble::kUnusual;
  if ((poll_now(master, POLLPRI) & POLLPRI) != 0) return TerminalTrouble::kUnread;
  int unread = 0;
  if (!slave || is_plain(own)) return TerminalTrouble::kNone;
  control(slave, FIONREAD, &unread, "asking what lies in a terminal");
  const std::size_t most = has_lines(own) ? kRoomForLines : kRoom - kLargestByte;
  return static_cast<std::size_t>(unread) > most ? TerminalTrouble::kUnread
                                                 : TerminalTrouble::kNone;
}

TerminalState read_terminal(const UniqueFd& master, const UniqueFd& slave) {
  const termios2 own = read_settings(slave);
  TerminalState state = read_modes(master, slave, own);
  if (state.packets) set_packets(master, false);
  try {
    take_out(master, slave, own, state);
  } catch (const Error&) {
    write_terminal(master, slave, state);
    throw;
  }
  write_terminal(master, slave, state);
  return state;
}

void empty_terminal(const UniqueFd& master, const UniqueFd& slave) {
  const termios2 own = read_settings(slave);
  TerminalState state;
  set_packets(master, false);
  tell(slave, TIOCNXCL, 0, "opening a terminal to all");
  tell(master, TIOCNXCL, 0, "opening a terminal to all");
  take_out(master, slave, own, state);
  set(slave, own);
}

void write_terminal(const UniqueFd& master, const UniqueFd& slave, const TerminalState& state) {
  const termios2 own = decode_settings(state);
  const bool lines = has_lines(own);
  const Neutral neutral(own);
  set(slave, neutral.settings());
  std::span<const std::byte> input(state.input);
  const std::size_t first = lines ? input.size() : std::min(input.size(), kRoom);
  if (!input.empty() || !state.pieces.empty()) {
    write_input(master, neutral, state, lines, input.first(first));
  }
  write_all(slave, state.output);
  set(slave, own);
  write_all(master, input.subspan(first));
  winsize window = state.window;
  control(slave, TIOCSWINSZ, &window, "setting the size of a terminal");
  if (state.slave_stop == TerminalState::Stop::kByCall) {
    tell(slave, TCXONC, TCOOFF, "stopping a terminal");
  } else if (state.slave_stop == TerminalState::Stop::kByCharacter) {
    const std::byte stop[] = {std::byte{own.c_cc[VSTOP]}};
    write_until_told(master, stop, TIOCPKT_STOP);
  }
  if (state.master_stopped) tell(master, TCXONC, TCOOFF, "stopping a terminal");
  if (state.packets) set_packets(master, true);
}

void restrict_terminal(const UniqueFd& master, const UniqueFd& slave, const TerminalState& state) {
  if (state.slave_exclusive) set_exclusive(slave, true);
  if (state.master_exclusive) set_exclusive(master, true);
  int lock = state.locked ? 1 : 0;
  control(master, TIOCSPTLCK, &lock, "locking a terminal");
}

}  // namespace telefork::kernel
