#include "cable.h"

#include <csignal>
#include <cstdlib>
#include <list>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

namespace fork_test {
namespace {

struct Connection {
  int ends[2];                  // -1 once both directions are over
  bool open[2] = {true, true};  // whether more may come from that end
};

sockaddr_in address_of(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<in_port_t>(std::stoi(text.substr(colon + 1))));
  require(inet_pton(AF_INET, text.substr(0, colon).c_str(), &address.sin_addr) == 1);
  return address;
}

// What is there of one end, all of it to the other. False: it was the end.
bool pass(int from, int to) {
  char bytes[64 * 1024];
  const ssize_t count = recv(from, bytes, sizeof bytes, 0);
  for (ssize_t sent = 0; sent < count;) {
    const ssize_t now =
        send(to, bytes + sent, static_cast<std::size_t>(count - sent), MSG_NOSIGNAL);
    if (now < 0) return false;
    sent += now;
  }
  if (count <= 0) shutdown(to, SHUT_WR);
  return count > 0;
}

[[noreturn]] void relay(int listener, const sockaddr_in& to) {
  prctl(PR_SET_NAME, "cable");
  std::list<Connection> connections;
  for (;;) {
    std::vector<pollfd> entries = {{listener, POLLIN, 0}};
    for (const Connection& one : connections) {
      for (int end : {0, 1}) entries.push_back({one.open[end] ? one.ends[end] : -1, POLLIN, 0});
    }
    if (poll(entries.data(), entries.size(), -1) < 0) _exit(1);
    auto entry = entries.begin() + 1;
    for (auto one = connections.begin(); one != connections.end();) {
      for (int end : {0, 1}) {
        if ((entry++)->revents != 0) one->open[end] = pass(one->ends[end], one->ends[1 - end]);
      }
      if (one->open[0] || one->open[1]) {
        ++one;
        continue;
      }
      for (int end : one->ends) close(end);
      one = connections.erase(one);
    }
    if (entries[0].revents == 0) continue;
    Connection made{};
    made.ends[0] = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    made.ends[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (made.ends[0] < 0 || made.ends[1] < 0) _exit(1);
    made.open[0] = made.open[1] =
        connect(made.ends[1], reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0;
    const int on = 1;
    for (int end : made.ends) setsockopt(end, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connections.push_back(made);
  }
}

}  // namespace

Cable::Cable(std::string to)
    : to_(std::move(to)), listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address = address_of("127.0.0.1:0");
  socklen_t size = sizeof address;
  auto* any = reinterpret_cast<sockaddr*>(&address);
  require(bind(listener_, any, size) == 0 && listen(listener_, SOMAXCONN) == 0 &&
          getsockname(listener_, any, &size) == 0);
  node_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
}

Cable::~Cable() {
  remove();
  close(listener_);
}

void Cable::lay() {
  const sockaddr_in to = address_of(to_);
  pid_ = ::fork();
  require(pid_ >= 0);
  if (pid_ == 0) relay(listener_, to);
}

void Cable::silence() { kill(pid_, SIGSTOP); }

void Cable::remove() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

}  // namespace fork_test
