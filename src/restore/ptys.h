// Pseudo-terminals with what lay in them, and their ends.
//
//     Ptys ptys;
//     const std::string& path = ptys.begin(session_terminal);  // before a session has it: its
//     slave ptys.set_records(files_record, contents, warn); UniqueFd end =
//     ptys.open_end(description);               // once a description of either kind ptys.settle();
//     // all that had one have it
//
// One has the number that it had where that is free here. Between begin() or its first end and
// settle() this process has both ends open: whose slave nobody had is then closed for its master.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/unique_fd.h"
#include "image/image.capnp.h"
#include "kernel/terminal.h"
#include "restore/content_store.h"

namespace telefork::restore {

// Masters of terminals that sessions have, by who leads each.
using SessionTerminals = std::map<pid_t, UniqueFd>;

class Ptys {
 public:
  using Warn = std::function<void(const std::string&)>;

  const std::string& begin(image::schema::SessionTerminal::Reader terminal);
  // Instead: a session that is there has it, of which this is the master. What lay in it when its
  // processes left is older than what comes.
  void take_back(image::schema::SessionTerminal::Reader terminal, const UniqueFd& master);
  // Of one that was begun.
  const UniqueFd& master_of(image::schema::SessionTerminal::Reader terminal) {
    return begun_.at(terminal.getNumber()).master;
  }
  // All of these outlive it.
  void set_records(image::schema::Files::Reader files, const ContentStore& contents, Warn warn);
  // Throws kCorrupt for one that is not in the record.
  UniqueFd open_end(image::schema::FileDescription::Reader description);
  void settle();

 private:
  struct Ends {
    UniqueFd master;
    UniqueFd slave;
    unsigned number = 0;  // here
    std::string path;
    bool filled = false;
    bool was_here = false;
    kernel::TerminalState state;
  };
  Ends& take(std::uint32_t number, UniqueFd master);
  Ends& make(std::uint32_t number);
  Ends& ends_of(std::uint32_t index, image::schema::Pty::Reader record);
  void set_size(image::schema::SessionTerminal::Reader terminal, const Ends& ends) const;
  void fill(image::schema::Pty::Reader record, Ends& ends);
  void give_owner(image::schema::Pty::Reader record, const Ends& ends) const;

  image::schema::Files::Reader files_;
  const ContentStore* contents_ = nullptr;
  Warn warn_;
  std::map<std::uint32_t, Ends> begun_;  // by the number that each had
};

}  // namespace telefork::restore
