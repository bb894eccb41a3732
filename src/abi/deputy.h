// The session socket once the deputy has taken the snapshot's place (exec keeps the description).
//
//   deputy                                         session process (src/deputy/supervisor.h)
//                            <-------------------  command START + the lifeline's end to read
//   event READY -------------------------------->
//   event SIGNAL (signalfd_siginfo) ------------>  for the guest
//   event PARENT_DIED -------------------------->
//                            <-------------------  command EXIT, DIE, STOP, CONTINUE, ECHO
//   event OBEYED ------------------------------->  once for each STOP and CONTINUE, before it stops
//   event ECHOED ------------------------------->  once for each ECHO, behind all signals that were
//                                                  pending when it was read
//
// The lifeline is a pipe on which the deputy asks for SIGCONT on events (F_SETSIG). The session
// process holds the other end and writes nothing to it: the only event is its own death, so that a
// deputy that is stopped at that time is continued, and ends.
//
// The deputy's environment:
//   TELEFORK_DEPUTY_FD      the number of the session socket
//   TELEFORK_DEPUTY_COMM    its name for ps; may be missing
//   TELEFORK_DEPUTY_PARENT  the parent's pid; only where the guest is to die with it
#pragma once

#include <assert.h>
#include <stdint.h>

#include <sys/signalfd.h>

#include "abi/agent.h"

// NOLINTBEGIN(readability-identifier-naming, modernize-deprecated-headers): C, for both sides.

#define TELEFORK_DEPUTY_FD "TELEFORK_DEPUTY_FD"
#define TELEFORK_DEPUTY_COMM "TELEFORK_DEPUTY_COMM"
#define TELEFORK_DEPUTY_PARENT "TELEFORK_DEPUTY_PARENT"

// The session process continues a stopped deputy by rt_sigqueueinfo(SIGCONT) with this value; that
// SIGCONT is not for the guest.
#define TELEFORK_DEPUTY_CONTINUE_VALUE UINT64_C(0x74656c65666f726b)

enum telefork_deputy_event_kind {
  TELEFORK_DEPUTY_READY = 1,
  TELEFORK_DEPUTY_SIGNAL = 2,
  TELEFORK_DEPUTY_PARENT_DIED = 3,
  TELEFORK_DEPUTY_OBEYED = 4,
  TELEFORK_DEPUTY_ECHOED = 5,
};

struct telefork_deputy_event {
  struct telefork_abi_header header;
  int32_t kind;  // enum telefork_deputy_event_kind
  int32_t reserved;
  struct signalfd_siginfo info;  // of SIGNAL
};

enum telefork_deputy_command_kind {
  TELEFORK_DEPUTY_START = 1,  // the first, and only the first
  TELEFORK_DEPUTY_EXIT = 2,   // value: the exit status
  TELEFORK_DEPUTY_DIE = 3,    // value: the signal to die of, without a core file of its own
  TELEFORK_DEPUTY_STOP = 4,   // value: the signal to stop by
  // Takes back a STOP that is not obeyed yet; SIGCONT is sent beside it for one that is.
  TELEFORK_DEPUTY_CONTINUE = 5,
  TELEFORK_DEPUTY_ECHO = 6,
};

struct telefork_deputy_command {
  struct telefork_abi_header header;
  int32_t kind;  // enum telefork_deputy_command_kind
  int32_t value;
};

static_assert(sizeof(struct telefork_deputy_event) == 16 + 8 + 128, "ABI");
static_assert(sizeof(struct telefork_deputy_command) == 16 + 8, "ABI");

// NOLINTEND(readability-identifier-naming, modernize-deprecated-headers)
