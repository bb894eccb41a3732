// One call of libtelefork's, fork() or run_on(), as far as the two are alike: a session process is
// forked ahead of the request, with the link open and the program's files known, so that the
// program waits for little but its own fork.
//
//   agent: request --> ProgramCall::answer   checks all that can be known; the reply, with the
//                                            session socket, or the error
//                      ForkSession::run, RunOnSession::run
//
// Owned by the session process.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "abi/agent.h"
#include "base/unique_fd.h"
#include "capture/kept_there.h"
#include "capture/lazy_plan.h"
#include "capture/survey.h"
#include "kernel/probe.h"
#include "kernel/yama.h"
#include "migrate/page_server.h"
#include "net/stream.h"
#include "protocol/handshake.h"
#include "protocol/machine.h"
#include "session/fence.h"
#include "session/file_negotiation.h"
#include "session/image_header.h"
#include "session/laziness.h"
#include "session/lease.h"
#include "session/node_link.h"
#include "session/outgoing_memory.h"
#include "session/programs.h"
#include "session/registry.h"
#include "session/steps.h"

namespace telefork::session {

struct AgentSettings {
  Programs programs;
  NodeAccess access;
  std::string registry;  // see registry.h; empty: none
  kernel::PageMapAbi pagemap = kernel::PageMapAbi::kEntries;
  kernel::TraceBar trace_bar = kernel::TraceBar::kNone;
  Lease lease;
  Laziness laziness;
  // Nodes may keep what a run_on leaves there.
  bool keeps = true;
  // What the memory that a run_on of this program leaves is kept under (Prepare.keep); empty: none
  // is to be. See run_agent().
  std::vector<std::byte> keep_name;
  // Of the standard input of a process that has moved: as HomeOptions::may_read_input.
  std::function<std::function<bool()>(const std::vector<pid_t>& homes, int input)> watch_input;
  Steps steps;
};

class ProgramCall {
 public:
  ProgramCall(const AgentSettings& settings, std::string node);
  ~ProgramCall();

  // Ahead of a request of process `pid`: opens the link, and asks about the files that it maps.
  // What is in the way is thrown, and found again when the request comes.
  void get_ready_for(pid_t pid);
  // Closes what was opened ahead of a request that another serves.
  void part() { opened_.reset(); }
  // Checks the request of process `pid` and answers it on the program's socket. False: the answer
  // was an error.
  bool answer(const telefork_agent_request& request, pid_t pid, int program_socket);

  // Once it has answered.
  const AgentSettings& settings() const { return settings_; }
  const std::string& node() const { return node_; }
  const protocol::OwnMachine& here() const { return here_; }
  protocol::Link& link() { return *opened_->link; }
  Fence* fence() { return fence_.get(); }
  const telefork_agent_request& request() const { return request_; }
  pid_t program() const { return program_; }
  // Our end of the session socket.
  UniqueFd& session_socket() { return session_socket_; }

  capture::SurveyOptions survey_options() const;
  // Asks about the program's files once more, for survey(): the answers may be as old as the
  // session.
  void ask_ahead_about_files();
  // Of `pid`, which is frozen: the program or its snapshot. `map`: its memory with flags, where
  // that is known. Throws all refusals at once.
  capture::Survey survey(pid_t pid, const telefork_snapshot& caller,
                         const std::vector<kernel::Vma>* map = nullptr);
  // A standard stream of `pid`, which was surveyed; empty where that is none, or is not carried.
  UniqueFd take_stream(pid_t pid, int number) const;
  // Whether memory is to follow the process.
  bool is_lazy() const { return memory_.is_lazy(); }
  OutgoingMemory& memory() { return memory_; }
  // What the keeper is told first, so that it can make a process meanwhile.
  // `kept_token`: of what home still knows of what is kept there; see KeptPages in
  // protocol/messages.capnp.
  void announce(image::schema::Header::Purpose purpose, const telefork_snapshot& caller,
                const std::string& description, std::span<const std::byte> kept_token = {});
  // After the survey, ahead of the records.
  void tell_streams();
  // The next call may find without reading what has changed since this one.
  bool repeats() const { return request_.options.repeat != 0; }
  // Whether what it has there is to be kept.
  bool is_kept() const;
  // After the streams: what need not be sent, of what the last call left there; null: nothing is
  // known of any. `clean`: what that is where the node has what the token that was announced is of.
  std::unique_ptr<capture::KeptThere> receive_kept(
      const capture::Survey& survey, const std::function<std::vector<kernel::PageRun>()>& clean);

 private:
  // Where it is not open, or not any more. Throws what is in the way.
  bool is_open() const;
  void open();
  void check(const telefork_agent_request& request, pid_t pid);

  const AgentSettings& settings_;
  std::string node_;
  protocol::OwnMachine here_;
  std::optional<OpenedNode> opened_;
  std::unique_ptr<Fence> fence_;
  FileNegotiation files_;
  capture::Survey last_survey_;  // of the program
  telefork_agent_request request_{};
  pid_t program_ = 0;
  OutgoingMemory memory_;
  std::uint64_t resident_kb_ = 0;  // of the program
  unsigned streams_ = 0;           // as Survey::carried_streams() has them
  UniqueFd session_socket_;
};

// Whether it is gone, but for what its parent has to reap.
bool has_ended(pid_t pid);

}  // namespace telefork::session
