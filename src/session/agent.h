// The agent of one program: answers the requests of its libtelefork, one after the other, each by a
// session process of its own.
//
//   program ==socket==> agent --fork--> session process (ProgramCall), forked ahead of the request
//                                       with its link open and the program looked at
//
// A session lives on by itself when the agent ends, and the agent ends with the program.
#pragma once

#include "base/error.h"
#include "base/unique_fd.h"
#include "session/program_call.h"

namespace telefork::session {

// Returns when the program has closed its end.
void run_agent(UniqueFd program_socket, const AgentSettings& settings);

// Of an agent that cannot work: every request is answered with the reason. Returns as run_agent.
void refuse_all(UniqueFd program_socket, const Error& why);

}  // namespace telefork::session
