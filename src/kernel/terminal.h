// A pseudo-terminal (pty(7)) of which this process has the master and a slave, and that nobody uses
// meanwhile: all that it is and all that lies in it.
//
//     UniqueFd slave = open_slave(master, O_RDWR | O_NONBLOCK);
//     if (terminal_trouble(master, slave) == TerminalTrouble::kNone) {
//       TerminalState state = read_terminal(master, slave);   // it is then as it was
//     }
//     ...
//     auto [master, slave] = ...                              // another one
//     write_terminal(master, slave, state);
//     restrict_terminal(master, slave, state);
//
// The kernel lets nobody look at what lies in a terminal: it has to be read, and is put back by
// writing it to the other end, where the line discipline (N_TTY) does with each byte what its
// settings say. So meanwhile the settings are others, under which every byte is what it is:
//
//     write(master) -> [flip buffer] -> line discipline -> [lines, half a line] -> read(slave)
//     read(master)  <- [bytes]       <- [flip buffer]   <- write(slave), echo
//
// If this process dies meanwhile, what it had read is lost and the settings are not what they were.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <sys/ioctl.h>

#include "base/unique_fd.h"

namespace telefork::kernel {

// What one read(2) of the slave gives.
struct TerminalPiece {
  enum class End {
    kOpen,       // none: half a line, or the bytes of a terminal that has no lines
    kDelimiter,  // its last byte
    kEndOfFile,  // VEOF, which no reader sees
  };
  std::uint32_t size = 0;
  End end = End::kOpen;
};

struct TerminalState {
  enum class Stop {
    kNo,
    kByCharacter,  // VSTOP (^S)
    kByCall,       // tcflow(3), TCOOFF
  };
  std::vector<std::byte> settings;  // struct termios2 of the slave
  winsize window{};
  bool packets = false;  // TIOCPKT
  bool locked = false;   // TIOCSPTLCK
  bool master_exclusive = false;
  bool slave_exclusive = false;
  bool master_stopped = false;
  Stop slave_stop = Stop::kNo;
  std::vector<std::byte> input;  // that the slave has not read
  std::vector<TerminalPiece> pieces;
  std::vector<std::byte> output;  // that the master has not read
};

// Why it cannot be told or given back.
enum class TerminalTrouble {
  kNone,
  kUnusual,  // another line discipline, or settings that are locked (TIOCSLCKTRMIOS)
  kUnread,   // packet mode's status, or so much to read that the rest waits in front of the line
             // discipline, where nobody can tell what that will make of it
};

// The N of /dev/pts/N.
unsigned terminal_number(const UniqueFd& master);
// Another description of the slave, never the controlling terminal. A lock is undone meanwhile.
UniqueFd open_slave(const UniqueFd& master, int flags);
// TIOCEXCL, of either end.
bool is_exclusive(const UniqueFd& end);
void set_exclusive(const UniqueFd& end, bool exclusive);
// Changes nothing. `slave` may be empty, where nobody has one open: then less is known.
TerminalTrouble terminal_trouble(const UniqueFd& master, const UniqueFd& slave);
// `slave` does not wait (O_NONBLOCK), and is this process's own.
TerminalState read_terminal(const UniqueFd& master, const UniqueFd& slave);
// Takes all out that lies in it, and lets everybody open it.
void empty_terminal(const UniqueFd& master, const UniqueFd& slave);
// All but who else may open it: that is restrict_terminal().
void write_terminal(const UniqueFd& master, const UniqueFd& slave, const TerminalState& state);
void restrict_terminal(const UniqueFd& master, const UniqueFd& slave, const TerminalState& state);

}  // namespace telefork::kernel
