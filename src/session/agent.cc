#include "session/agent.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs.h"
#include "net/fd_passing.h"
#include "net/stream.h"
#include "net/unix_stream.h"
#include "protocol/handshake.h"
#include "session/agent_socket.h"
#include "session/fork_session.h"
#include "session/guard_channel.h"
#include "session/move_call.h"
#include "session/registry.h"
#include "session/repeat_watch.h"
#include "session/run_on_session.h"
#include "session/signal_fd.h"

namespace telefork::session {
namespace {

// What goes from the agent to a session process and back, over a socket pair of theirs.
struct Order {
  telefork_agent_request request;
  pid_t pid;
};

// What a run_on with Options::repeat has left, while no session has it. Sessions end, and send it
// to their agent before, which may be about to give it to the next one.
class WatchStore {
 public:
  WatchStore() {
    auto [ours, theirs] = make_socket_pair(SOCK_SEQPACKET);
    receiving_ = std::move(ours);
    sending_ = std::move(theirs);
  }

  // The latest that has come, if any.
  std::optional<RepeatWatch::Packed> take() {
    for (pollfd entry{receiving_.get(), POLLIN, 0}; ::poll(&entry, 1, 0) > 0;) {
      std::array<std::byte, 1> byte{};
      net::ReceivedFds received =
          net::receive_fds(receiving_.get(), byte, 2, net::Deadline::never());
      if (received.fds.size() != 2) break;
      latest_ = {std::move(received.fds[0]), std::move(received.fds[1])};
    }
    return std::exchange(latest_, {});
  }

  // In a session process: it is not to hold what is the agent's.
  UniqueFd become_sender() {
    receiving_.reset();
    latest_.reset();
    return std::move(sending_);
  }

 private:
  UniqueFd receiving_;
  UniqueFd sending_;
  std::optional<RepeatWatch::Packed> latest_;
};

void send_watch(int socket, const RepeatWatch::Packed& watch, std::span<const std::byte> bytes) {
  const int fds[] = {watch.userfaultfd.get(), watch.known.get()};
  net::send_fds(socket, bytes, fds);
}

// A session process as its agent sees it.
class Worker {
 public:
  Worker(const AgentSettings& settings, const std::string& node, pid_t program, int program_socket,
         WatchStore& store)
      : node_(node) {
    auto [ours, theirs] = make_socket_pair(SOCK_SEQPACKET);
    pid_ = ::fork();
    if (pid_ < 0) throw_errno("starting a session", Code::kResources);
    if (pid_ == 0) {
      ours.reset();
      try {
        serve(settings, node, program, std::move(theirs), program_socket, store.become_sender());
      } catch (const std::exception&) {
        // It must not become a second agent; whoever waits for it sees its sockets close.
      }
      ::_exit(0);  // a forked session ends here
    }
    socket_ = std::move(ours);
  }

  const std::string& node() const { return node_; }
  pid_t pid() const { return pid_; }
  // One that was given nothing, and may wait for its node still; not once it was reaped.
  void end_unused() const { ::kill(pid_, SIGKILL); }

  // False: the session ended without an answer to the program.
  bool give(const Order& order, const std::optional<RepeatWatch::Packed>& watch) const {
    const auto bytes = std::as_bytes(std::span(&order, 1));
    if (watch) {
      send_watch(socket_.get(), *watch, bytes);
    } else if (::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) !=
               static_cast<ssize_t>(bytes.size())) {
      return false;
    }
    char answered = 0;
    ssize_t count;
    do {
      count = ::recv(socket_.get(), &answered, 1, 0);
    } while (count < 0 && errno == EINTR);
    return count == 1;
  }
  // Readable once the child runs, or will not.
  int fd() const { return socket_.get(); }

 private:
  // In the session process. The link is opened before the order comes; what fails then is tried
  // again, and told, when it does; a call that waited for a node that does not answer does not wait
  // twice.
  static void serve(const AgentSettings& settings, const std::string& node, pid_t program,
                    UniqueFd orders, int program_socket, UniqueFd watches) {
    ProgramCall call(settings, node);
    // A node that does not answer must not keep it here when its agent has ended.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::optional<Error> unreachable;
    try {
      call.get_ready_for(program);
    } catch (const Error& error) {
      // Unless it has meanwhile the program has not asked for anything yet.
      pollfd asked{orders.get(), POLLIN, 0};
      bool has_waited = error.code() == Code::kUnreachable && ::poll(&asked, 1, 0) > 0;
      if (has_waited) unreachable = error;
    }
    ::prctl(PR_SET_PDEATHSIG, 0);
    Order order;
    net::ReceivedFds received = net::receive_fds(
        orders.get(), std::as_writable_bytes(std::span(&order, 1)), 2, net::Deadline::never());
    if (received.bytes != sizeof(order)) return;
    std::optional<RepeatWatch::Packed> watch;
    if (received.fds.size() == 2) {
      watch = {std::move(received.fds[0]), std::move(received.fds[1])};
    }
    if (!unreachable && order.request.op == TELEFORK_OP_MOVE_TO) {
      call.part();
      MoveCall(settings, order.request, order.pid, program_socket).run(std::move(orders));
      return;
    }
    bool go_ahead = false;
    if (unreachable) {
      send_reply(program_socket, &*unreachable, -1);
    } else {
      go_ahead = call.answer(order.request, order.pid, program_socket);
    }
    [[maybe_unused]] ssize_t told = ::send(orders.get(), "", 1, MSG_NOSIGNAL);
    ::close(program_socket);
    if (!go_ahead) return;
    auto on_started = [&orders] { orders.reset(); };
    if (order.request.op == TELEFORK_OP_RUN_ON) {
      RunOnSession(call, std::move(watch), [&watches](const RepeatWatch::Packed& left) {
        constexpr std::array<std::byte, 1> kByte{};
        send_watch(watches.get(), left, kByte);
      }).run(on_started);
    } else {
      ForkSession(call).run(on_started);
    }
  }

  std::string node_;
  pid_t pid_ = 0;
  UniqueFd socket_;
};

// A path is the program's, not this process's.
std::string resolve_node(const std::string& node, pid_t program) {
  constexpr std::string_view kUnix = "unix:";
  if (!node.starts_with(kUnix) || node.size() == kUnix.size() || node[kUnix.size()] == '/') {
    return node;
  }
  return fmt::format("{}{}/{}", kUnix, kernel::read_cwd_link(program), node.substr(kUnix.size()));
}

// One for all calls of the program, to whichever node: each has what it keeps by itself.
AgentSettings with_keep_name(AgentSettings settings) {
  if (settings.keeps) settings.keep_name = protocol::make_token(kKeptNameSize);
  return settings;
}

// One session process is kept ready for the next request. It is made when the last request's child
// runs, so as not to take the processors from it.
class Agent {
 public:
  Agent(UniqueFd program_socket, const AgentSettings& settings)
      : signals_({SIGCHLD}),
        program_socket_(std::move(program_socket)),
        settings_(with_keep_name(settings)),
        program_(net::peer_credentials(program_socket_.get()).pid) {
    // What a session leaves, a private telepad that is about to end, is reaped here.
    ::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  }

  void run() {
    while (await_request()) {
      auto request = receive_request(program_socket_.get());
      if (!request) break;
      try {
        answer(*request);
      } catch (const Error& error) {
        send_reply(program_socket_.get(), &error, -1);
      }
    }
    await_sessions();
  }

 private:
  // False: the program has closed its end.
  bool await_request() {
    for (;;) {
      pollfd entries[] = {{program_socket_.get(), POLLIN, 0},
                          {starting_ ? starting_->fd() : -1, POLLIN, 0},
                          {signals_.fd(), POLLIN, 0}};
      net::poll_until(entries, net::Deadline::never());
      if (entries[2].revents != 0) reap_sessions();
      if (entries[0].revents != 0) return true;
      if (entries[1].revents == 0) continue;
      std::string node = starting_->node();
      starting_.reset();
      try {
        ready_ = make_worker(node);
      } catch (const Error&) {
        // Tried again, and told, when it is needed.
      }
    }
  }

  void reap_sessions() {
    while (signals_.try_read()) {
    }
    for (pid_t pid; (pid = ::waitpid(-1, nullptr, WNOHANG)) > 0;) {
      forget_session(settings_.registry, pid);
      if (ready_ && ready_->pid() == pid) ready_.reset();
    }
  }

  // The program may live on, and be whom this process's children would go to.
  void await_sessions() {
    reap_sessions();
    starting_.reset();
    if (ready_) ready_->end_unused();
    ready_.reset();
    program_socket_.reset();
    for (;;) {
      pid_t pid = ::waitpid(-1, nullptr, 0);
      if (pid < 0 && errno == ECHILD) return;
      if (pid > 0) forget_session(settings_.registry, pid);
    }
  }

  std::unique_ptr<Worker> make_worker(const std::string& node) {
    return std::make_unique<Worker>(settings_, node, program_, program_socket_.get(), watches_);
  }

  void answer(const telefork_agent_request& request) {
    if (program_ <= 0) {
      throw Error(Code::kRefused, "the program is in a pid namespace that telefork does not see");
    }
    std::string node = resolve_node(request.node, program_);
    // First closed, then forked: a session ends with the last copy of its socket's other end.
    if (ready_ && ready_->node() != node) ready_.reset();
    if (!ready_) {
      starting_.reset();
      ready_ = make_worker(node);
    }
    starting_ = std::move(ready_);
    std::optional<RepeatWatch::Packed> watch;
    if (request.op == TELEFORK_OP_RUN_ON) watch = watches_.take();
    if (!starting_->give({request, program_}, watch)) {
      starting_.reset();
      throw Error(Code::kLost, "the session of this call ended unexpectedly");
    }
  }

  SignalFd signals_;  // a session process has ended
  UniqueFd program_socket_;
  const AgentSettings settings_;
  pid_t program_;
  WatchStore watches_;
  std::unique_ptr<Worker> ready_;
  std::unique_ptr<Worker> starting_;  // the child of the last request
};

}  // namespace

void run_agent(UniqueFd program_socket, const AgentSettings& settings) {
  Agent(std::move(program_socket), settings).run();
}

void refuse_all(UniqueFd program_socket, const Error& why) {
  while (receive_request(program_socket.get())) send_reply(program_socket.get(), &why, -1);
}

}  // namespace telefork::session
