#include "session/greeting.h"

#include <span>
#include <string_view>

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/error.h"
#include "net/fd_stream.h"
#include "protocol/machine.h"

namespace telefork::session {
namespace {

using Progress = Greeting::Progress;

struct Connected {
  explicit Connected(Via via) : Connected(make_socket_pair(SOCK_STREAM), via) {}

  void say(std::string_view text) {
    peer.write_all(std::as_bytes(std::span(text)), net::Deadline::now());
  }
  std::string rest() const {
    char bytes[64];
    ssize_t count = ::recv(greeting.fd.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
    return {bytes, bytes + std::max<ssize_t>(count, 0)};
  }
  Code failure() {
    try {
      greeting.advance();
    } catch (const Error& error) {
      return error.code();
    }
    ADD_FAILURE() << "it was taken";
    return Code::kFailed;
  }

  net::FdStream peer;
  Greeting greeting;

 private:
  Connected(std::pair<UniqueFd, UniqueFd> fds, Via via)
      : peer(std::move(fds.first), "peer"), greeting(std::move(fds.second), via, 1000, "it") {}
};

TEST(Greeting, TellsAProgramByItsPreambleAndTakesNoMore) {
  Connected it(Via::kSocket);
  EXPECT_EQ(it.greeting.advance(), Progress::kWaits);
  it.say("TFAGE");
  EXPECT_EQ(it.greeting.advance(), Progress::kWaits);
  it.say("NT1 and more");
  EXPECT_EQ(it.greeting.advance(), Progress::kProgram);
  EXPECT_EQ(it.rest(), " and more");
}

TEST(Greeting, TakesAHelloAndNoMore) {
  protocol::OwnMachine machine;
  for (Via via : {Via::kSocket, Via::kTls}) {
    Connected it(via);
    EXPECT_EQ(it.greeting.advance(), Progress::kWaits);
    protocol::send_hello(
        it.peer, machine.reader(), [](auto hello) { hello.setNodeName("node7"); },
        net::Deadline::now());
    it.say("more");
    ASSERT_EQ(it.greeting.advance(), Progress::kHello);
    EXPECT_EQ(it.greeting.hello()->getNodeName(), "node7");
    EXPECT_EQ(it.rest(), "more");
  }
}

// Another machine's peer is no program of this one, whoever he is.
TEST(Greeting, TakesAProgramOnASocketOfThisMachineOnly) {
  for (Via via : {Via::kTls, Via::kStdio}) {
    Connected it(via);
    it.say("TFAGENT1....");
    EXPECT_EQ(it.failure(), Code::kCorrupt);
  }
}

TEST(Greeting, IsLostWhenNothingMoreWillCome) {
  for (std::string_view begun : {"", "TFLINK01"}) {
    Connected it(Via::kSocket);
    it.say(begun);
    it.greeting.advance();
    it.peer.shutdown_write();
    EXPECT_EQ(it.failure(), Code::kLost);
  }
}

}  // namespace
}  // namespace telefork::session
