#include "session/node_link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/testing_error.h"
#include "net/fd_stream.h"

namespace telefork::session {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

protocol::ReceivedHelloReply an_empty_reply() {
  std::vector<std::uint64_t> words = {std::uint64_t{1} << 32, 0};
  return protocol::ReceivedHelloReply(
      {std::move(words), ::capnp::Schema::from<protocol::schema::HelloReply>()});
}

TEST(PageConnection, NamesTheNodeThatHasJustDied) {
  auto [control, control_there] = make_socket_pair(SOCK_STREAM);
  auto [bulk, bulk_there] = make_socket_pair(SOCK_STREAM);
  const OpenedNode node{std::make_unique<protocol::Link>(
                            "node7", std::make_unique<net::FdStream>(std::move(control), "node7"),
                            std::make_unique<net::FdStream>(std::move(bulk), "node7")),
                        an_empty_reply(), nullptr};
  bulk_there.reset();
  const Error error = error_of([&] { open_page_connection(node); });
  EXPECT_EQ(error.code(), Code::kLost);
  EXPECT_THAT(error.text(), StartsWith("node7: "));
  EXPECT_THAT(error.text(), HasSubstr("Broken pipe"));
}

}  // namespace
}  // namespace telefork::session
