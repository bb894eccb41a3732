#include "session/agent.h"

#include <cerrno>
#include <csignal>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "net/unix_stream.h"
#include "session/agent_socket.h"
#include "session/registry.h"

namespace telefork::session {
namespace {

// What goes from the agent to a session process and back, over a socket pair of theirs.
struct Order {
  telefork_agent_request request;
  pid_t pid;
};

// A session process as its agent sees it.
class Worker {
 public:
  Worker(const AgentSettings& settings, const std::string& node, int program_socket) : node_(node) {
    auto [ours, theirs] = make_socket_pair(SOCK_SEQPACKET);
    pid_t pid = ::fork();
    if (pid < 0) throw_errno("starting a session", Code::kResources);
    if (pid == 0) {
      ours.reset();
      try {
        serve(settings, node, std::move(theirs), program_socket);
      } catch (const std::exception&) {
        // It must not become a second agent; whoever waits for it sees its sockets close.
      }
      ::_exit(0);  // a forked session ends here
    }
    socket_ = std::move(ours);
  }

  const std::string& node() const { return node_; }

  // False: the session ended without an answer to the program.
  bool give(const Order& order) const {
    if (::send(socket_.get(), &order, sizeof(order), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(sizeof(order))) {
      return false;
    }
    char answered = 0;
    ssize_t count;
    do {
      count = ::recv(socket_.get(), &answered, 1, 0);
    } while (count < 0 && errno == EINTR);
    return count == 1;
  }

 private:
  // In the session process. The link is opened before the order comes; what fails then is tried
  // again, and told, when it does.
  static void serve(const AgentSettings& settings, const std::string& node, UniqueFd orders,
                    int program_socket) {
    ForkSession session(settings, node);
    try {
      session.open();
    } catch (const Error&) {
      // The program has not asked for anything yet.
    }
    Order order;
    if (::recv(orders.get(), &order, sizeof(order), 0) != static_cast<ssize_t>(sizeof(order))) {
      return;
    }
    bool go_ahead = session.answer(order.request, order.pid, program_socket);
    [[maybe_unused]] ssize_t told = ::send(orders.get(), "", 1, MSG_NOSIGNAL);
    orders.reset();
    ::close(program_socket);
    if (go_ahead) session.run();
  }

  std::string node_;
  UniqueFd socket_;
};

void reap_sessions(const std::string& registry) {
  for (pid_t pid; (pid = ::waitpid(-1, nullptr, WNOHANG)) > 0;) forget_session(registry, pid);
}

}  // namespace

void run_agent(UniqueFd program_socket, const AgentSettings& settings) {
  std::unique_ptr<Worker> warm;
  pid_t pid = net::peer_credentials(program_socket.get()).pid;
  while (auto request = receive_request(program_socket.get())) {
    reap_sessions(settings.registry);
    try {
      if (pid <= 0) {
        throw Error(Code::kRefused, "the program is in a pid namespace that telefork does not see");
      }
      std::string node = request->node;
      if (!warm || warm->node() != node) {
        warm = std::make_unique<Worker>(settings, node, program_socket.get());
      }
      std::unique_ptr<Worker> worker = std::exchange(warm, nullptr);
      if (!worker->give({*request, pid})) {
        throw Error(Code::kFailed, "the session of this fork ended unexpectedly");
      }
      warm = std::make_unique<Worker>(settings, node, program_socket.get());
    } catch (const Error& error) {
      send_reply(program_socket.get(), &error, -1);
    }
  }
  reap_sessions(settings.registry);
}

void refuse_all(UniqueFd program_socket, const Error& why) {
  while (receive_request(program_socket.get())) send_reply(program_socket.get(), &why, -1);
}

}  // namespace telefork::session
