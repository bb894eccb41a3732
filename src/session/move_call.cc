#include "session/move_call.h"

#include <optional>
#include <utility>

#include <sys/socket.h>

#include "base/error.h"
#include "session/agent_socket.h"
#include "session/move_session.h"

namespace telefork::session {

DepartureRequest MoveCall::make_request() const {
  DepartureRequest request;
  request.pid = program_;
  request.node = net::parse_node(request_.node);
  request.copy_shared = request_.options.shared == 1;
  request.mode = static_cast<Mode>(request_.options.mode);
  request.agent_fd = request_.agent_fd;
  request.keeper = find_keeper_call(program_, {settings_.registry});
  return request;
}

DepartureSettings MoveCall::make_settings() {
  DepartureSettings settings;
  settings.programs = settings_.programs;
  settings.access = settings_.access;
  settings.registry = settings_.registry;
  settings.lease = settings_.lease;
  settings.laziness = settings_.laziness;
  settings.pagemap = settings_.pagemap;
  settings.trace_bar = settings_.trace_bar;
  settings.steps = settings_.steps;
  settings.await_caller = [this] { return await_caller(); };
  return settings;
}

void MoveCall::tell_agent() {
  [[maybe_unused]] ssize_t told = ::send(agent_.get(), "", 1, MSG_NOSIGNAL);
  program_socket_.reset();
}

telefork_snapshot MoveCall::await_caller() {
  auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
  ask_for_credentials(ours.get());
  send_reply(program_socket_.get(), nullptr, theirs.get());
  session_socket_ = std::move(ours);
  theirs.reset();
  tell_agent();
  std::optional<ReceivedSnapshot> received = receive_snapshot(session_socket_.get());
  if (!received || received->pid != program_) throw Error(Code::kGone, "the program has ended");
  return received->message;
}

// Nobody hears it where the process has ended.
void MoveCall::fail(const Error& error) {
  if (session_socket_) {
    send_verdict(session_socket_.get(), error);
    return;
  }
  send_reply(program_socket_.get(), &error, -1);
  tell_agent();
}

void MoveCall::run(UniqueFd agent) {
  agent_ = std::move(agent);
  std::optional<MoveSession> session;
  try {
    session.emplace(make_settings(), make_request());
    session->run();
  } catch (const Error& error) {
    fail(error);
    return;
  }
  session_socket_.reset();
  agent_.reset();
  session->stay(settings_.watch_input ? settings_.watch_input(session->pids(), session->input())
                                      : std::function<bool()>());
}

}  // namespace telefork::session
