// The agent of one program: answers the requests of its libtelefork, one after the other, each by a
// session process of its own.
//
//   program ==socket==> agent --fork--> session process (ProgramCall), forked ahead of the request
//                                       with its link open and the program looked at
//
// It ends when the program has closed its end and all sessions have ended; a session lives on by
// itself when its agent is killed. It is a subreaper: what its sessions leave goes to nobody else,
// as a program that is one too would find it among its children.
#pragma once

#include "base/error.h"
#include "base/unique_fd.h"
#include "session/program_call.h"

namespace telefork::session {

// Returns when the program has closed its end and the last session has ended.
void run_agent(UniqueFd program_socket, const AgentSettings& settings);

// Of an agent that cannot work: every request is answered with the reason. Returns when the
// program has closed its end.
void refuse_all(UniqueFd program_socket, const Error& why);

}  // namespace telefork::session
