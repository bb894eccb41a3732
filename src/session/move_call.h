// One telefork_move_to(): a MoveSession that the process itself has asked its agent for.
//
//   program                              session process
//   request ---------------------------> looks at it while it runs
//           <------------- reply, session socket
//   snapshot, read() ------------------> MoveSession
//                                        failure: a verdict, and it goes on here
//   at the node: read() "returns" TELEFORK_RESUMED
#pragma once

#include <sys/types.h>

#include "abi/agent.h"
#include "base/unique_fd.h"
#include "session/departure.h"
#include "session/program_call.h"

namespace telefork::session {

class MoveCall {
 public:
  MoveCall(const AgentSettings& settings, const telefork_agent_request& request, pid_t program,
           int program_socket)
      : settings_(settings),
        request_(request),
        program_(program),
        program_socket_(program_socket) {}

  // Until nothing of it is left. `agent` hears when the program has its answer, and is closed when
  // the process has gone or will not.
  void run(UniqueFd agent);

 private:
  DepartureSettings make_settings();
  DepartureRequest make_request() const;
  telefork_snapshot await_caller();
  void tell_agent();
  void fail(const Error& error);

  const AgentSettings& settings_;
  telefork_agent_request request_;
  pid_t program_;
  UniqueFd program_socket_;
  UniqueFd agent_;
  UniqueFd session_socket_;  // our end, once it was told to go ahead
};

}  // namespace telefork::session
