#include "session/agent_socket.h"

#include <cstddef>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "net/unix_stream.h"

namespace telefork::session {
namespace {

// What a program is told.
std::string told(const std::string& text) {
  auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
  const Error error(Code::kRefused, text);
  telefork_agent_reply reply;
  send_reply(ours.get(), &error, -1);
  EXPECT_EQ(::recv(theirs.get(), &reply, sizeof(reply), MSG_WAITALL), ssize_t{sizeof(reply)});
  telefork_verdict verdict;
  send_verdict(ours.get(), error);
  EXPECT_EQ(::recv(theirs.get(), &verdict, sizeof(verdict), MSG_WAITALL), ssize_t{sizeof(verdict)});
  EXPECT_STREQ(reply.message, verdict.message);
  return reply.message;
}

TEST(AgentSocket, TellsAllRefusalsThatHaveRoom) {
  const std::string line(TELEFORK_MESSAGE_SIZE / 2 - 1, 'r');
  EXPECT_EQ(told(line + '\n' + line), line + '\n' + line);
}

TEST(AgentSocket, EndsAtAWholeRefusalAndSaysHowManyMoreThereAre) {
  constexpr int kRefusals = 200;
  std::string text;
  std::size_t whole = 0;
  for (int i = 0; i < kRefusals; ++i) {
    text += fmt::format("{}refused: fd {} -> socket: a socket cannot move yet; close it",
                        i == 0 ? "" : "\n", i + 100);
  }
  const std::string found = told(text);
  const std::size_t end = found.rfind('\n');
  ASSERT_NE(end, std::string::npos);
  for (char c : found.substr(0, end + 1)) whole += c == '\n' ? 1 : 0;
  EXPECT_GT(whole, 60u);
  EXPECT_EQ(found.substr(0, end + 1), text.substr(0, end + 1));
  EXPECT_EQ(found.substr(end + 1),
            fmt::format("... and {} more: telefork check PID tells all", kRefusals - whole));
}

TEST(AgentSocket, ShortensALineThatHasNoRoomByItself) {
  const std::string line(2 * std::size_t{TELEFORK_MESSAGE_SIZE}, 'r');
  std::string found = told(line);
  EXPECT_TRUE(found.ends_with("rrr...")) << found.substr(found.size() - 80);
  found = told(line + "\nrefused: fd 3");
  EXPECT_TRUE(found.ends_with("rrr...\n... and 1 more: telefork check PID tells all"))
      << found.substr(found.size() - 80);
}

}  // namespace
}  // namespace telefork::session
