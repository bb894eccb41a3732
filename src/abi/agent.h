// The socket between a program's libtelefork and its agent: AF_UNIX, SOCK_STREAM, fixed-size
// structs in the machine's byte order, descriptors by SCM_RIGHTS.
//
//   program (library)                              agent, then the fork's session process
//   ---- connect to the telepad's socket ----
//   preamble "TFAGENT1" ------------------------>  telepad reads these 8 bytes and no more, and
//                                                  execs an agent with the socket (a private agent
//                                                  is started with one: no preamble)
//   telefork_agent_request --------------------->  checks all that can be known
//                            <-------------------  telefork_agent_reply; with code 0 one
//                                                  descriptor: the session socket
//   fork(): parent closes the session socket and returns; the child, the snapshot, goes on:
//
//   snapshot                                       session process
//   telefork_snapshot -------------------------->  (on the session socket)
//   read(session, &verdict)                        freezes it there with ptrace, captures it
//                                                  failure: sends telefork_verdict
//                                                  hand-over: replaces it by the deputy (deputy.h)
//   guest: read() "returns" TELEFORK_RESUMED       sets that as the result of the syscall
//
// run_on() has no snapshot: the calling thread itself sends the telefork_snapshot, with every
// signal blocked, and waits in the read. At the node the keeper has the other end of a session
// socket of the same number, and the same two steps bring it home:
//
//   program                                        session process, keeper
//   telefork_snapshot, read() ------------------>  freezes every thread, captures all of it
//                                                  failure: sends telefork_verdict, and the
//                                                  program runs on
//   guest: read() "returns" TELEFORK_RESUMED
//     f()
//     telefork_snapshot, read() ---------------->  (keeper) freezes it, sends home what it changed
//   home:  read() "returns" TELEFORK_RETURNED
//
// move_to() begins as run_on() does, and ends there: at home the deputy takes the process's place.
//
// Pids come from the kernel: both ends set SO_PASSCRED and read SCM_CREDENTIALS. The library takes
// the sender of the reply for the process that will trace the snapshot or be an ancestor of the one
// that does (Yama: PR_SET_PTRACER), so the agent itself sends it.
//
// Every struct begins with a header; a receiver checks all of it. All text is NUL-terminated.
#pragma once

#include <assert.h>
#include <stdint.h>

// NOLINTBEGIN(readability-identifier-naming, modernize-deprecated-headers): C, for both sides.

#define TELEFORK_AGENT_PREAMBLE "TFAGENT1"

enum {
  TELEFORK_AGENT_PREAMBLE_SIZE = 8,
  TELEFORK_ABI_VERSION = 1,
  TELEFORK_NODE_SIZE = 256,
  TELEFORK_MESSAGE_SIZE = 4096,
  // What read() of a verdict "returns" in the guest: less than any verdict, and no verdict follows.
  TELEFORK_RESUMED = 1,
  // And at home, after a run_on().
  TELEFORK_RETURNED = 2,
  // The status of a pid whose fork failed after the call had returned.
  TELEFORK_FAILED_STATUS = 125,
};

enum telefork_abi_magic {
  TELEFORK_MAGIC_REQUEST = 0x71726654,   // "Tfrq"
  TELEFORK_MAGIC_REPLY = 0x70726654,     // "Tfrp"
  TELEFORK_MAGIC_SNAPSHOT = 0x6e736654,  // "Tfsn"
  TELEFORK_MAGIC_VERDICT = 0x64766654,   // "Tfvd"
  TELEFORK_MAGIC_EVENT = 0x76656654,     // "Tfev", deputy.h
  TELEFORK_MAGIC_COMMAND = 0x6d636654,   // "Tfcm", deputy.h
};

struct telefork_abi_header {
  uint32_t magic;    // enum telefork_abi_magic
  uint32_t version;  // TELEFORK_ABI_VERSION
  uint32_t size;     // of the whole struct
  uint32_t reserved;
};

// The library gives its end of the socket an abstract name that begins so (unix(7)): whoever
// captures the program from outside knows by it that this is no descriptor of the program's.
#define TELEFORK_AGENT_SOCKET_NAME "telefork-agent-of/"
// And so does a keeper the guest's end of the session socket of a run_on(): whoever has one may
// come home from where it is, and its keeper watches what it writes.
#define TELEFORK_SESSION_SOCKET_NAME "telefork-session-of/"

enum telefork_agent_op {
  TELEFORK_OP_FORK = 1,
  TELEFORK_OP_RUN_ON = 2,
  TELEFORK_OP_MOVE_TO = 3,
};

// The values of struct telefork_options of include/telefork/telefork.h.
struct telefork_agent_options {
  int32_t mode;
  int32_t fds;
  int32_t shared;
  int32_t standard_input;
  int32_t die_with_parent;
  int32_t repeat;
  int32_t reserved[10];
};

struct telefork_agent_request {
  struct telefork_abi_header header;
  int32_t op;        // enum telefork_agent_op
  int32_t tid;       // of the calling thread, as the program's pid namespace has it
  int32_t agent_fd;  // the number of this socket in the program: no part of what travels
  int32_t reserved;
  struct telefork_agent_options options;
  char node[TELEFORK_NODE_SIZE];
};

struct telefork_agent_reply {
  struct telefork_abi_header header;
  int32_t code;   // enum telefork_code; 0 is go ahead, with the session socket
  int32_t error;  // an errno, or 0
  // Of a go-ahead: the lease ("90 s"), for the error of a call whose session process ends.
  char message[TELEFORK_MESSAGE_SIZE];
};

// What cannot be seen from outside. The snapshot, or the thread that called run_on(), sends it and
// enters read(session_fd, verdict_address, verdict_size), all signals blocked, and stays there.
struct telefork_snapshot {
  struct telefork_abi_header header;
  int32_t pid;  // as its own pid namespace has it; trust SCM_CREDENTIALS
  int32_t tid;
  uint64_t signal_mask;  // the caller's, bit n-1 for signal n: the one to capture for a fork
  int32_t session_fd;    // these two descriptors are no part of what travels; agent_fd may be -1
  int32_t agent_fd;
  uint64_t verdict_address;
  uint64_t verdict_size;
};

// The snapshot writes `telefork: fork to NODE: message` to stderr and exits with 125. One send.
struct telefork_verdict {
  struct telefork_abi_header header;
  int32_t code;  // enum telefork_code, not 0
  int32_t error;
  char message[TELEFORK_MESSAGE_SIZE];
};

static_assert(sizeof(struct telefork_abi_header) == 16, "ABI");
static_assert(sizeof(struct telefork_agent_request) == 16 + 16 + 64 + 256, "ABI");
static_assert(sizeof(struct telefork_agent_reply) == 16 + 8 + 4096, "ABI");
static_assert(sizeof(struct telefork_snapshot) == 16 + 40, "ABI");
static_assert(sizeof(struct telefork_verdict) == 16 + 8 + 4096, "ABI");

// NOLINTEND(readability-identifier-naming, modernize-deprecated-headers)
