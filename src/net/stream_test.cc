#include "net/stream.h"

#include <csignal>
#include <numeric>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/testing_error.h"
#include "net/fd_stream.h"
#include "net/memory_stream.h"

namespace telefork::net {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

std::vector<std::byte> numbered(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 7);
  return bytes;
}

TEST(Stream, CarriesBytesBothWays) {
  auto [one, other] = make_stream_pair();
  auto sent = numbered(1000);
  one->write_all(sent, Deadline::in(10s));
  other->write_all(std::span(sent).first(10), std::span(sent).subspan(10), Deadline::in(10s));
  std::vector<std::byte> received(1000);
  other->read_exactly(received, Deadline::in(10s));
  EXPECT_EQ(received, sent);
  received.assign(1000, {});
  one->read_exactly(received, Deadline::in(10s));
  EXPECT_EQ(received, sent);
}

TEST(Stream, TellsThatNothingIsThereFromTheEnd) {
  auto [one, other] = make_stream_pair();
  std::byte byte{};
  EXPECT_EQ(one->try_read({&byte, 1}), std::nullopt);
  other->shutdown_write();
  EXPECT_EQ(one->try_read({&byte, 1}), 0);
}

TEST(Stream, ReportsAnEarlyEndAsLost) {
  auto [one, other] = make_stream_pair();
  other->write_all(numbered(3), Deadline::in(10s));
  other.reset();
  std::vector<std::byte> bytes(4);
  Error error = error_of([&, &end = one] { end->read_exactly(bytes, Deadline::in(10s)); });
  EXPECT_EQ(error.code(), Code::kLost);
  EXPECT_THAT(error.text(), HasSubstr("the other end closed the connection"));
}

TEST(Stream, ReportsWritingToAClosedEndAsLost) {
  auto [one, other] = make_stream_pair();
  other.reset();
  Error error = error_of([&, &end = one] { end->write_all(numbered(1), Deadline::in(10s)); });
  EXPECT_EQ(error.code(), Code::kLost);
}

TEST(Stream, GivesUpAtItsDeadline) {
  auto [one, other] = make_stream_pair();
  std::byte byte{};
  Error error = error_of([&, &end = one] { end->read_exactly({&byte, 1}, Deadline::in(1ms)); });
  EXPECT_EQ(error.code(), Code::kLost);
  EXPECT_EQ(error.error(), ETIMEDOUT);
  error = error_of([&, &end = one] { end->write_all(numbered(4 << 20), Deadline::in(1ms)); });
  EXPECT_EQ(error.error(), ETIMEDOUT);
}

TEST(Stream, LeavesTheStatusFlagsAsTheyWere) {
  auto [one, other] = make_socket_pair(SOCK_STREAM);
  int before = ::fcntl(one.get(), F_GETFL);
  UniqueFd same = one.duplicate();
  FdStream stream(std::move(one), "one");
  std::byte byte{};
  EXPECT_EQ(stream.try_read({&byte, 1}), std::nullopt);
  EXPECT_EQ(::fcntl(same.get(), F_GETFL), before);
}

TEST(Stream, WorksOverTwoPipesWithoutWaiting) {
  ASSERT_NE(::signal(SIGPIPE, SIG_IGN), SIG_ERR);
  auto [read_a, write_a] = make_pipe();
  auto [read_b, write_b] = make_pipe();
  FdStream one(std::move(read_a), std::move(write_b), "one");
  FdStream other(std::move(read_b), std::move(write_a), "other");
  // Until the pipe is full: the last attempt says so instead of waiting.
  auto piece = numbered(10'000);
  std::size_t written = 0;
  while (auto count = one.try_write(piece)) written += *count;
  EXPECT_GE(written, 4096U);
  one.shutdown_write();
  std::vector<std::byte> received(written);
  other.read_exactly(received, Deadline::in(10s));
  EXPECT_EQ(other.read_some(received, Deadline::in(10s)), 0U);
  EXPECT_EQ(error_of([&] { one.write_all(piece, Deadline::in(10s)); }).code(), Code::kLost);
}

TEST(FaultyStream, CutsAtEveryByte) {
  auto sent = numbered(20);
  for (std::size_t cut = 0; cut < sent.size(); ++cut) {
    FaultyStream stream(std::make_unique<MemoryStream>(sent), {.cut_read_after = cut});
    std::vector<std::byte> received(sent.size());
    EXPECT_EQ(error_of([&] { stream.read_exactly(received, Deadline::never()); }).code(),
              Code::kLost);
  }
}

TEST(FaultyStream, DeliversAllInShortReadsAndWrites) {
  auto sent = numbered(100);
  auto [one, other] = make_stream_pair();
  FaultyStream writer(std::move(one), {.longest_write = 3});
  FaultyStream reader(std::move(other), {.longest_read = 1});
  writer.write_all(std::span(sent).first(8), std::span(sent).subspan(8), Deadline::in(10s));
  std::vector<std::byte> received(100);
  reader.read_exactly(received, Deadline::in(10s));
  EXPECT_EQ(received, sent);
}

TEST(FaultyStream, CutsWhatIsWritten) {
  auto [one, other] = make_stream_pair();
  FaultyStream writer(std::move(one), {.cut_write_after = 5});
  EXPECT_EQ(error_of([&] { writer.write_all(numbered(10), Deadline::in(10s)); }).code(),
            Code::kLost);
  std::vector<std::byte> received(10);
  EXPECT_EQ(other->read_some(received, Deadline::in(10s)), 5U);
  EXPECT_EQ(other->read_some(received, Deadline::in(10s)), 0U);
}

}  // namespace
}  // namespace telefork::net
