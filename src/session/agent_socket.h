// The structs of src/abi/agent.h over their socket, checked.
#pragma once

#include <optional>
#include <string_view>

#include <sys/types.h>

#include "abi/agent.h"
#include "base/error.h"

namespace telefork::session {

// The next request; empty when the program has closed its end. kCorrupt for what is none.
std::optional<telefork_agent_request> receive_request(int socket);
// `fd` goes with it where it is not -1. Of an error that is too long for the struct it has whole
// lines and says how many more there are; send_verdict() too. `lease`: of a go-ahead, for people.
void send_reply(int socket, const Error* error, int fd, std::string_view lease = {});

// The answer to a request that need not have come yet: the connection is closed after it, and
// libtelefork reads it for all that. Never throws, and never waits on a new connection.
void refuse_request(int socket, const Error& why) noexcept;

struct ReceivedSnapshot {
  telefork_snapshot message;
  pid_t pid;  // of its sender, by the kernel
};
// Empty when the program's fork failed and the socket was closed.
std::optional<ReceivedSnapshot> receive_snapshot(int socket);
void send_verdict(int socket, const Error& error);
// Has the kernel say who sent what (SCM_CREDENTIALS).
void ask_for_credentials(int socket);

// Of a guest's end: TELEFORK_SESSION_SOCKET_NAME and its inode, which is its own here.
void name_session_socket(int socket);

}  // namespace telefork::session
