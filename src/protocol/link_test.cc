#include "protocol/link.h"

#include <functional>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/testing_error.h"
#include "net/fd_stream.h"
#include "net/memory_stream.h"
#include "net/tls_stream.h"

namespace telefork::protocol {
namespace {

using net::Deadline;
using schema::Message;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

std::vector<std::byte> numbered(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 31 + i / 251);
  return bytes;
}

enum class Streams { kOne, kTwo, kTls };
using StreamPair = std::pair<std::unique_ptr<net::Stream>, std::unique_ptr<net::Stream>>;

StreamPair make_pair_of(Streams kind) {
  if (kind != Streams::kTls) return net::make_stream_pair();
  auto [one, other] = make_socket_pair(SOCK_STREAM);
  auto secret = numbered(32);
  StreamPair pair;
  std::jthread accepting([&, fd = std::move(other)]() mutable {
    pair.second = net::TlsStream::accept(std::move(fd), "home", secret, Deadline::in(10s));
  });
  pair.first = net::TlsStream::connect(std::move(one), "keeper", secret, Deadline::in(10s));
  accepting.join();
  return pair;
}

// Two ends of a link. Each test is run with a bulk connection, with everything on one, and through
// TLS.
class LinkTest : public ::testing::TestWithParam<Streams> {
 protected:
  LinkTest() {
    auto [home_control, keeper_control] = make_pair_of(GetParam());
    std::unique_ptr<net::Stream> home_bulk;
    std::unique_ptr<net::Stream> keeper_bulk;
    if (GetParam() != Streams::kOne) std::tie(home_bulk, keeper_bulk) = make_pair_of(GetParam());
    home_ = std::make_unique<Link>("keeper", std::move(home_control), std::move(home_bulk));
    keeper_ = std::make_unique<Link>("home", std::move(keeper_control), std::move(keeper_bulk));
  }
  void send_ready(Link& link, unsigned pid) {
    link.send([&](Message::Builder message) { message.initReady().setPid(pid); });
  }

  std::unique_ptr<Link> home_;
  std::unique_ptr<Link> keeper_;
};

std::string name_of(const testing::TestParamInfo<Streams>& test) {
  constexpr const char* kNames[] = {"OnOneStream", "WithBulkStream", "ThroughTls"};
  return kNames[static_cast<int>(test.param)];
}
INSTANTIATE_TEST_SUITE_P(Streams, LinkTest,
                         ::testing::Values(Streams::kOne, Streams::kTwo, Streams::kTls), name_of);

TEST_P(LinkTest, CarriesMessagesInOrder) {
  for (unsigned i = 1; i <= 3; ++i) send_ready(*home_, i);
  for (unsigned i = 1; i <= 3; ++i) {
    EXPECT_EQ(keeper_->receive(Deadline::in(10s))->getReady().getPid(), i);
  }
  EXPECT_FALSE(keeper_->try_receive());
}

TEST_P(LinkTest, CarriesRecordsPayloadsAndMessagesTogether) {
  auto records = numbered(3'000'000);
  auto payload = numbered(5'000'001);
  std::jthread source([&] {
    home_->record_sink().write(std::span(records).first(10));
    home_->record_sink().write(std::span(records).subspan(10));
    home_->bulk_sink().write(payload);
    home_->record_sink().write(std::span(records).first(100));
    send_ready(*home_, 7);
    home_->flush(Deadline::in(60s));
  });
  std::vector<std::byte> got(records.size());
  keeper_->record_source().read(got);
  EXPECT_EQ(got, records);
  got.resize(payload.size());
  keeper_->bulk_source().read(got);
  EXPECT_EQ(got, payload);
  got.resize(100);
  keeper_->record_source().read(got);
  EXPECT_EQ(keeper_->receive(Deadline::in(10s))->getReady().getPid(), 7U);
}

TEST_P(LinkTest, KeepsMessagesThatArriveAmongRecords) {
  send_ready(*home_, 1);
  home_->record_sink().write(numbered(10));
  send_ready(*home_, 2);
  home_->record_sink().write(numbered(10));
  home_->flush(Deadline::in(10s));
  std::vector<std::byte> got(20);
  keeper_->record_source().read(got);
  EXPECT_EQ(keeper_->receive(Deadline::in(10s))->getReady().getPid(), 1U);
  EXPECT_EQ(keeper_->receive(Deadline::in(10s))->getReady().getPid(), 2U);
}

TEST_P(LinkTest, TakesHeartbeatsItself) {
  auto before = keeper_->last_heard();
  home_->send_heartbeat();
  send_ready(*home_, 1);
  EXPECT_TRUE(keeper_->receive(Deadline::in(10s))->isReady());
  EXPECT_GT(keeper_->last_heard(), before);
}

TEST_P(LinkTest, DeliversWhatCameBeforeAFailureAndThenItsError) {
  send_ready(*keeper_, 1);
  keeper_->send([](Message::Builder message) {
    encode_failure(Error(Code::kResources, "no memory"), message.initFailed());
  });
  keeper_.reset();
  EXPECT_TRUE(home_->receive(Deadline::in(10s))->isReady());
  Error error = error_of([&] { home_->receive(Deadline::in(10s)); });
  EXPECT_EQ(error.code(), Code::kResources);
  EXPECT_EQ(error.text(), "keeper: no memory");
}

TEST_P(LinkTest, EndsAWaitForRecordsWithTheOtherEndsError) {
  std::jthread source([&] {
    home_->record_sink().write(numbered(10));
    home_->fail(Error(Code::kGone, "the process ended"));
  });
  std::vector<std::byte> got(11);
  Error error = error_of([&] { keeper_->record_source().read(got); });
  EXPECT_EQ(error.code(), Code::kGone);
  EXPECT_EQ(error.text(), "home: the process ended");
  keeper_.reset();
}

TEST_P(LinkTest, EndsAWaitForPayloadsWhenTheSourceGivesUp) {
  home_->send([](Message::Builder message) { message.setAbort("interrupted"); });
  std::vector<std::byte> got(1);
  Error error = error_of([&] { keeper_->bulk_source().read(got); });
  EXPECT_EQ(error.code(), Code::kGone);
  EXPECT_THAT(error.text(), HasSubstr("home gave up: interrupted"));
  EXPECT_TRUE(keeper_->receive(Deadline::in(10s))->isAbort());
}

// The keeper fails in the middle of an image that is larger than any buffer between the two.
TEST_P(LinkTest, TellsTheWriterOfRecordsWhyTheOtherEndFailed) {
  std::jthread destination([&] {
    std::vector<std::byte> got(1000);
    keeper_->record_source().read(got);
    keeper_->fail(Error(Code::kResources, "no pids"));
  });
  auto megabyte = numbered(1 << 20);
  Error error = error_of([&] {
    while (true) home_->record_sink().write(megabyte);
  });
  EXPECT_EQ(error.text(), "keeper: no pids");
  home_.reset();
}

TEST_P(LinkTest, TellsTheWriterOfPayloadsWhyTheOtherEndFailed) {
  std::jthread destination([&] {
    std::vector<std::byte> got(1000);
    keeper_->bulk_source().read(got);
    keeper_->fail(Error(Code::kResources, "no memory"));
  });
  auto megabyte = numbered(1 << 20);
  Error error = error_of([&] {
    while (true) home_->bulk_sink().write(megabyte);
  });
  EXPECT_EQ(error.text(), "keeper: no memory");
  home_.reset();
}

TEST_P(LinkTest, FindsTheReasonBehindAClosedConnection) {
  keeper_->send([](Message::Builder message) {
    encode_failure(Error(Code::kRefused, "not here"), message.initFailed());
  });
  keeper_.reset();
  auto megabyte = numbered(1 << 20);
  EXPECT_EQ(error_of([&] { home_->bulk_sink().write(megabyte); }).text(), "keeper: not here");
}

TEST_P(LinkTest, IsLostWhenTheOtherEndVanishes) {
  keeper_.reset();
  std::vector<std::byte> got(1);
  auto expect_lost = [&](const std::function<void()>& f) {
    Error error = error_of(f);
    EXPECT_EQ(error.code(), Code::kLost);
    EXPECT_THAT(error.text(), HasSubstr("keeper: the other end closed the connection"));
  };
  expect_lost([&] { home_->receive(Deadline::in(10s)); });
  expect_lost([&] { home_->record_source().read(got); });
  expect_lost([&] { home_->bulk_source().read(got); });
  expect_lost([&] { home_->bulk_sink().write(got); });
  expect_lost([&] { home_->record_sink().write(numbered(1 << 20)); });
}

TEST_P(LinkTest, GivesOutWhatCameBeforeTheEndThoughSendingFails) {
  send_ready(*keeper_, 5);
  keeper_.reset();
  send_ready(*home_, 1);
  send_ready(*home_, 2);
  EXPECT_EQ(home_->receive(Deadline::in(10s))->getReady().getPid(), 5U);
  EXPECT_EQ(error_of([&] { home_->receive(Deadline::in(10s)); }).code(), Code::kLost);
}

TEST_P(LinkTest, DoesNotWaitInSendWhileTheOtherEndIsSlow) {
  std::string text(500'000, 'x');
  for (int i = 0; i < 6; ++i) {
    home_->send([&](Message::Builder message) { message.setReport(text); });
  }
  EXPECT_EQ(home_->poll_entries().size(), 2U);  // something is left to write
  std::jthread sender([&] { home_->flush(Deadline::in(10s)); });
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(keeper_->receive(Deadline::in(10s))->isReport());
  sender.join();
  EXPECT_EQ(home_->poll_entries().size(), 1U);
}

TEST_P(LinkTest, SendsBothWaysAtOnceWithoutADeadlock) {
  auto flood = [](Link& link) {
    std::string text(900'000, 'x');
    for (int i = 0; i < 10; ++i) {
      link.send([&](Message::Builder message) { message.setReport(text); });
      if (i < 5) continue;
      EXPECT_TRUE(link.receive(Deadline::in(10s))->isReport());
    }
    for (int i = 0; i < 5; ++i) EXPECT_TRUE(link.receive(Deadline::in(10s))->isReport());
    link.flush(Deadline::in(10s));
  };
  std::jthread other([&] { flood(*keeper_); });
  flood(*home_);
}

TEST_P(LinkTest, RefusesMoreThanWasAskedFor) {
  std::jthread sender([&] {
    try {
      auto megabyte = numbered(1 << 20);
      while (true) home_->record_sink().write(megabyte);
    } catch (const Error&) {
      // The other end had enough.
    }
  });
  Error error = error_of([&] { keeper_->receive(Deadline::in(10s)); });
  EXPECT_EQ(error.code(), Code::kCorrupt);
  keeper_.reset();
}

TEST_P(LinkTest, LosesPatienceWithASilentPeer) {
  home_->set_patience(1ms);
  std::vector<std::byte> got(1);
  Error error = error_of([&] { home_->record_source().read(got); });
  EXPECT_EQ(error.code(), Code::kLost);
  EXPECT_EQ(error.error(), ETIMEDOUT);
  EXPECT_EQ(error_of([&] { home_->receive(Deadline::in(1ms)); }).error(), ETIMEDOUT);
}

TEST_P(LinkTest, NamesTheMessageThatWasNotExpected) {
  home_->send([](Message::Builder message) { message.setGo(); });
  Error error = error_of([&] { keeper_->expect(Message::READY, Deadline::in(10s)); });
  EXPECT_EQ(error.code(), Code::kCorrupt);
  EXPECT_THAT(error.text(), HasSubstr("home: the message 'go' came where 'ready' was expected"));
}

TEST_P(LinkTest, LetsAnotherProcessTakeOverTheBulkDescriptor) {
  if (GetParam() != Streams::kTwo) {
    EXPECT_EQ(home_->bulk_fd(), -1);
    return;
  }
  home_->record_sink().write(numbered(10));
  home_->flush(Deadline::in(10s));
  ASSERT_EQ(::write(home_->bulk_fd(), "raw", 3), 3);
  std::vector<std::byte> got(10);
  keeper_->record_source().read(got);
  char text[3];
  ASSERT_EQ(::read(keeper_->bulk_fd(), text, 3), 3);
  EXPECT_EQ(std::string_view(text, 3), "raw");
}

TEST_P(LinkTest, EndsTheBulkStreamWithTheProcessThatTookItOver) {
  if (GetParam() != Streams::kTwo) return;
  UniqueFd taken(::dup(keeper_->bulk_fd()));
  keeper_->close_bulk();
  EXPECT_FALSE(keeper_->has_bulk_stream());
  home_->bulk_sink().write(numbered(3));
  char text[3];
  ASSERT_EQ(::read(taken.get(), text, 3), 3);
  taken.reset();
  keeper_.reset();
  EXPECT_EQ(error_of([&] { home_->bulk_sink().write(numbered(3)); }).code(), Code::kLost);
}

TEST_P(LinkTest, GoesOnBehindAnImageThatIsNotWanted) {
  for (Link* link : {home_.get(), keeper_.get()}) link->do_without_bulk();
  // What is read of it, what has come, and what is on its way.
  for (int i = 0; i < 2; ++i) {
    keeper_->record_sink().write(numbered(1000));
    keeper_->bulk_sink().write(numbered(20'000));
    keeper_->flush(Deadline::in(10s));
    if (i > 0) break;
    std::vector<std::byte> some(10);
    home_->record_source().read(some);
    home_->bulk_source().read(some);
    EXPECT_EQ(some, numbered(10));
    home_->set_discarding(true);
  }
  keeper_->send([](Message::Builder message) { message.setAbort("it is not wanted"); });
  keeper_->flush(Deadline::in(10s));
  EXPECT_EQ(home_->receive(Deadline::in(10s))->which(), Message::ABORT);
  EXPECT_TRUE(home_->other_end_aborted());
  home_->set_discarding(false);
  EXPECT_FALSE(home_->other_end_aborted());

  const auto twenty = numbered(20);
  keeper_->record_sink().write(std::span(twenty).subspan(10));
  keeper_->bulk_sink().write(std::span(twenty).first(10));
  keeper_->flush(Deadline::in(10s));
  std::vector<std::byte> got(10);
  home_->bulk_source().read(got);
  EXPECT_EQ(got, numbered(10));
  std::vector<std::byte> records(10);
  home_->record_source().read(records);
  EXPECT_EQ(records[0], twenty[10]);
}

TEST_P(LinkTest, PassesOverWhatABystanderTakes) {
  std::vector<unsigned> seen;
  keeper_->set_bystander([&](const ReceivedMessage& message) {
    if (!message->isReady()) return false;
    seen.push_back(message->getReady().getPid());
    return true;
  });
  for (int i = 0; i < 2; ++i) {
    send_ready(*home_, 7);
    home_->send([](Message::Builder message) { message.setGo(); });
  }
  keeper_->expect(Message::GO, Deadline::in(10s));
  keeper_->expect_while_heard(Message::GO);
  EXPECT_EQ(seen, (std::vector<unsigned>{7, 7}));
  keeper_->set_bystander({});
  send_ready(*home_, 7);
  Error error = error_of([&] { keeper_->expect(Message::GO, Deadline::in(10s)); });
  EXPECT_EQ(error.code(), Code::kCorrupt);
}

TEST(LinkOnOneStream, LetsAMessageWaitForOneShortFrame) {
  auto stream = std::make_unique<net::MemoryStream>();
  net::MemoryStream* kept = stream.get();
  Link writer("there", std::move(stream), nullptr);
  writer.record_sink().write(numbered(1'000'000));
  writer.bulk_sink().write(numbered(1'000'000));
  writer.flush(Deadline::never());
  FrameDecoder decoder;
  std::span<const std::byte> bytes = kept->written();
  std::size_t carried = 0;
  while (!bytes.empty() || decoder.has_frame()) {
    auto room = decoder.begin_receive();
    std::size_t count = std::min(room.size(), bytes.size());
    std::copy_n(bytes.begin(), count, room.begin());
    bytes = bytes.subspan(count);
    decoder.end_receive(count);
    while (auto frame = decoder.next()) {
      EXPECT_LE(frame->payload.size(), kMaxBulkFrame);
      carried += frame->payload.size();
    }
  }
  EXPECT_EQ(carried, 2'000'000U);
}

// Everything of a small conversation, cut after each byte: an Error each time, never a hang.
TEST(LinkCut, IsLostWhereverTheConnectionIsCut) {
  net::MemoryStream* kept = nullptr;
  auto stream = std::make_unique<net::MemoryStream>();
  kept = stream.get();
  Link writer("there", std::move(stream), nullptr);
  writer.record_sink().write(numbered(5));
  writer.send([](Message::Builder message) { message.initReady().setPid(3); });
  writer.bulk_sink().write(numbered(5));
  writer.flush(Deadline::never());
  const std::vector<std::byte> bytes = kept->written();
  auto converse = [](Link& link) {
    std::vector<std::byte> got(5);
    link.record_source().read(got);
    EXPECT_EQ(got, numbered(5));
    EXPECT_EQ(link.receive(Deadline::never())->getReady().getPid(), 3U);
    link.bulk_source().read(got);
    EXPECT_EQ(got, numbered(5));
  };
  for (std::size_t cut = 0; cut < bytes.size(); ++cut) {
    Link link("there",
              std::make_unique<net::FaultyStream>(std::make_unique<net::MemoryStream>(bytes),
                                                  net::Faults{.cut_read_after = cut}),
              nullptr);
    EXPECT_EQ(error_of([&] { converse(link); }).code(), Code::kLost);
  }
  Link link("there",
            std::make_unique<net::FaultyStream>(std::make_unique<net::MemoryStream>(bytes),
                                                net::Faults{.longest_read = 1}),
            nullptr);
  converse(link);
}

}  // namespace
}  // namespace telefork::protocol
