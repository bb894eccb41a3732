// What `telefork move` and `telefork fork` do alike.
//
//     telefork (what the shell waits for)
//        |-- fork, fork --> session process, in a session of its own: does it, says how that went,
//        |                  and stays as long as anything of it is away
//        |<---------------- the exit code
//
// ^C here is a wish not to have it done; once it may run there, it comes too late.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "app/commands.h"
#include "session/departure.h"

namespace telefork::app {

struct DepartureKind {
  // In the session process.
  std::function<std::unique_ptr<session::Departure>(session::DepartureSettings,
                                                    session::DepartureRequest)>
      make;
  // How it went, for people.
  std::function<std::string(const session::DepartureReport&)> say;
  // What is to be said where the session process was killed.
  std::string lost;
  // A guest may go, with all that came here with it.
  bool moves_on = false;
};
int depart(const DepartCommand& command, const DepartureKind& kind);

}  // namespace telefork::app
