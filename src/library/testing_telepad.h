// The library against agents of the tests' own: what the true agent does with a snapshot is tested
// where it is made. A guest is played by the snapshot itself, which is sent one zero byte: that is
// what the end of its read() looks like in the guest.
//
//     FakeTelepad telepad;                // TELEFORK_SOCKET leads to it as long as it lives
//     telepad.reply.code = TELEFORK_REFUSED;
//     EXPECT_EQ(telefork_fork("node7"), -1);
//
// It serves in a thread of its own; its fields may be changed while no call is under way.
#pragma once

#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "abi/agent.h"
#include "telefork/telefork.h"

namespace library_test {

inline constexpr int kPatienceMs = 20000;

template <class T>
bool receive(int fd, T& object) {
  pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&ready, 1, kPatienceMs) == 1 &&
         recv(fd, &object, sizeof object, MSG_WAITALL) == ssize_t{sizeof object};
}

// One thread serves every connection, one after the other, as a telepad with its agents would.
class FakeTelepad {
 public:
  // What becomes of the session; its descriptor is closed afterwards.
  using OnSnapshot = std::function<void(int session, const telefork_snapshot& snapshot)>;

  FakeTelepad() {
    char folder[] = "/tmp/telefork-test-XXXXXX";
    folder_ = mkdtemp(folder);
    path_ = folder_ + "/telepad.sock";
    listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    EXPECT_EQ(pipe2(stop_, O_CLOEXEC), 0);
    setenv("TELEFORK_SOCKET", path_.c_str(), 1);
    thread_ = std::thread([this] { serve(); });
  }
  ~FakeTelepad() {
    close(stop_[1]);
    thread_.join();
    for (const int fd : connections_) close(fd);
    close(listener_);
    close(stop_[0]);
    unlink(path_.c_str());
    rmdir(folder_.c_str());
    unsetenv("TELEFORK_SOCKET");
  }

  const std::string& path() const { return path_; }
  std::function<void()> on_request = [] {};  // before the answer
  OnSnapshot on_snapshot = resume;
  telefork_agent_reply reply = make_reply();
  bool hang_up = false;  // instead of the next answer
  telefork_agent_request request{};
  int accepted = 0;

  static void resume(int session, const telefork_snapshot&) {
    EXPECT_EQ(send(session, "", 1, MSG_NOSIGNAL), 1);
  }
  static void say_no_memory(int session, const telefork_snapshot&) {
    telefork_verdict verdict{};
    verdict.header = {TELEFORK_MAGIC_VERDICT, TELEFORK_ABI_VERSION, sizeof verdict, 0};
    verdict.code = TELEFORK_RESOURCES;
    std::strcpy(verdict.message, "no memory there");
    EXPECT_EQ(send(session, &verdict, sizeof verdict, MSG_NOSIGNAL), ssize_t{sizeof verdict});
  }
  static telefork_agent_reply make_reply() {
    telefork_agent_reply reply{};
    reply.header = {TELEFORK_MAGIC_REPLY, TELEFORK_ABI_VERSION, sizeof reply, 0};
    return reply;
  }

 private:
  void serve() {
    for (;;) {
      std::vector<pollfd> fds = {{stop_[0], POLLIN, 0}, {listener_, POLLIN, 0}};
      for (const int fd : connections_) fds.push_back({fd, POLLIN, 0});
      if (poll(fds.data(), fds.size(), -1) < 0) continue;
      if (fds[0].revents != 0) return;
      if (fds[1].revents != 0) accept_one();
      for (std::size_t i = 2; i < fds.size(); ++i) {
        if (fds[i].revents != 0) answer(fds[i].fd);
      }
    }
  }

  void accept_one() {
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    char preamble[TELEFORK_AGENT_PREAMBLE_SIZE] = {};
    EXPECT_TRUE(receive(fd, preamble));
    EXPECT_EQ(std::memcmp(preamble, TELEFORK_AGENT_PREAMBLE, sizeof preamble), 0);
    connections_.push_back(fd);
    ++accepted;
  }

  void drop(int fd) {
    std::erase(connections_, fd);
    close(fd);
  }

  void answer(int fd) {
    telefork_agent_request next;
    if (!receive(fd, next)) return drop(fd);
    request = next;
    on_request();
    if (std::exchange(hang_up, false)) return drop(fd);
    int session[2] = {-1, -1};
    const bool go = reply.code == TELEFORK_OK;
    if (go) {
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, session), 0);
    }
    send_reply(fd, session[1]);
    if (!go) return;
    close(session[1]);
    telefork_snapshot snapshot;
    if (receive(session[0], snapshot)) on_snapshot(session[0], snapshot);
    // A snapshot is forked from this very process and so has a copy.
    shutdown(session[0], SHUT_RDWR);
    close(session[0]);
  }

  void send_reply(int fd, int descriptor) {
    iovec part{&reply, sizeof reply};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (descriptor >= 0) {
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      cmsghdr* c = CMSG_FIRSTHDR(&message);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(c), &descriptor, sizeof descriptor);
    }
    EXPECT_EQ(sendmsg(fd, &message, MSG_NOSIGNAL), ssize_t{sizeof reply});
  }

  std::string folder_, path_;
  int listener_ = -1;
  int stop_[2] = {-1, -1};
  std::vector<int> connections_;
  std::thread thread_;
};

}  // namespace library_test
