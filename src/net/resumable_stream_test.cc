#include "net/resumable_stream.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/testing_error.h"
#include "net/fd_stream.h"
#include "net/memory_stream.h"

namespace telefork::net {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

using Buffer = std::vector<std::byte>;
using Role = ResumableStream::Role;

Buffer noise(std::size_t size, unsigned seed) {
  Buffer bytes(size);
  std::mt19937 generator(seed);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(generator());
  return bytes;
}

// Two ends, and what a session does for them: it brings each other connection to both.
struct Pair {
  explicit Pair(Faults faults = {}) : faults_(faults) {
    auto [one, other] = connect();
    ResumableStream::Settings of_client{Role::kClient, {}, {}, {}, true, {}};
    of_client.on_loss = [this] { ++losses; };
    client = std::make_unique<ResumableStream>(std::move(one), std::move(of_client));
    ResumableStream::Settings of_server{Role::kServer, {}, {}, {}, true, {}};
    server = std::make_unique<ResumableStream>(std::move(other), std::move(of_server));
  }

  void arm() {
    client->entrance()->arm();
    server->entrance()->arm();
  }

  // Both ends of the connection there is, as a reset of it.
  void cut() {
    ::shutdown(fds_[0], SHUT_RDWR);
    ::shutdown(fds_[1], SHUT_RDWR);
  }

  void bring_another() {
    auto [one, other] = connect();
    server->entrance()->offer(std::move(other),
                              [this](Stream&, std::uint64_t received) { greeted = received; });
    std::byte byte{};
    EXPECT_EQ(server->try_read({&byte, 1}), std::nullopt);
    client->entrance()->offer(std::move(one), greeted.value());
  }

  std::unique_ptr<ResumableStream> client;
  std::unique_ptr<ResumableStream> server;
  int losses = 0;
  std::optional<std::uint64_t> greeted;

 private:
  std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>> connect() {
    auto [one, other] = make_stream_pair();
    fds_[0] = one->fd();
    fds_[1] = other->fd();
    return {std::make_unique<FaultyStream>(std::move(one), faults_),
            std::make_unique<FaultyStream>(std::move(other), faults_)};
  }

  Faults faults_;
  int fds_[2] = {-1, -1};
};

template <class F>
void expect_failure(F&& f, Code code, const std::string& text) {
  const Error error = error_of(std::forward<F>(f));
  EXPECT_EQ(error.code(), code);
  EXPECT_THAT(error.text(), HasSubstr(text));
}

// One direction of the traffic, as far as it goes without waiting.
struct Traffic {
  Stream& from;
  Stream& to;
  Buffer bytes;
  std::mt19937& random;
  std::size_t written = 0;
  std::size_t attempt = 0;  // bytes that an attempt has begun with
  Buffer read = {};

  bool is_over() const { return read.size() == bytes.size(); }
  void write_some() {
    if (written == bytes.size()) return;
    if (attempt == 0) {
      attempt = std::min<std::size_t>(1 + random() % 300'000, bytes.size() - written);
    }
    if (auto count = from.try_write(std::span(bytes).subspan(written, attempt))) {
      written += *count;
      attempt = 0;
    }
  }
  void read_some() {
    Buffer room(1 + random() % 100'000);
    if (auto count = to.try_read(room)) {
      ASSERT_GT(*count, 0);
      read.insert(read.end(), room.begin(), room.begin() + static_cast<std::ptrdiff_t>(*count));
    }
  }
};

class Seeded : public ::testing::TestWithParam<unsigned> {};
INSTANTIATE_TEST_SUITE_P(, Seeded, ::testing::Range(1U, 13U));

TEST_P(Seeded, LosesAndRepeatsNothingHoweverItsConnectionsAreCut) {
  std::mt19937 random(GetParam());
  Faults faults;
  if (GetParam() % 2 == 0) {
    faults.longest_read = 1 + random() % 5000;
    faults.longest_write = 1 + random() % 5000;
  }
  Pair pair(faults);
  pair.arm();
  const std::size_t size = GetParam() % 2 == 0 ? 300'000 : 9'000'000;
  Traffic there{*pair.client, *pair.server, noise(size, GetParam()), random};
  Traffic back{*pair.server, *pair.client, noise(size / 3, GetParam() + 100), random};
  bool is_cut = false;
  std::uint64_t cuts = 0;
  while (!there.is_over() || !back.is_over()) {
    const unsigned what = random() % 100;
    if (what < 40) there.write_some();
    if (what >= 20 && what < 60) back.write_some();
    if (what >= 40 && what < 80) there.read_some();
    if (what >= 60) back.read_some();
    if (!is_cut && random() % 60 == 0) {
      pair.cut();
      is_cut = true;
      ++cuts;
    }
    if (is_cut && random() % 10 == 0) {
      // Now and then nobody has seen yet that it is lost.
      pair.bring_another();
      is_cut = false;
    }
    ASSERT_FALSE(HasFatalFailure());
  }
  EXPECT_GT(cuts, 2);
  EXPECT_TRUE(there.read == there.bytes);
  EXPECT_TRUE(back.read == back.bytes);
  EXPECT_GT(pair.client->resumptions(), 2);
}

Buffer read_all_there_is(Stream& stream) {
  Buffer all;
  for (;;) {
    Buffer room(1000);
    std::optional<std::size_t> count = stream.try_read(room);
    if (!count || *count == 0) return all;
    all.insert(all.end(), room.begin(), room.begin() + static_cast<std::ptrdiff_t>(*count));
  }
}

bool is_readable(const Stream& stream) {
  pollfd entry = stream.read_interest();
  return ::poll(&entry, 1, 0) > 0;
}

TEST(ResumableStream, WaitsWithoutWakingAnybodyUntilAnotherConnectionIsOffered) {
  Pair pair;
  pair.arm();
  pair.cut();
  EXPECT_EQ(read_all_there_is(*pair.client), Buffer());
  EXPECT_EQ(pair.losses, 1);
  EXPECT_FALSE(is_readable(*pair.client));
  const Buffer bytes = noise(100, 1);
  EXPECT_EQ(pair.client->try_write(bytes), std::nullopt);
  EXPECT_FALSE(is_readable(*pair.client));
  pair.bring_another();
  EXPECT_TRUE(is_readable(*pair.client));
  EXPECT_EQ(pair.client->try_write(bytes), bytes.size());
  EXPECT_EQ(read_all_there_is(*pair.server), bytes);
  EXPECT_EQ(pair.losses, 1);
}

TEST(ResumableStream, GoesOnByTheNewConnectionThoughTheOldOneIsThereStill) {
  Pair pair;
  pair.arm();
  const Buffer bytes = noise(70'000, 2);
  pair.client->write_all(bytes, Deadline::in(60s));
  pair.bring_another();
  EXPECT_EQ(pair.greeted, 0);
  EXPECT_EQ(read_all_there_is(*pair.client), Buffer());
  EXPECT_EQ(read_all_there_is(*pair.server), bytes);
  EXPECT_EQ(pair.losses, 0);
}

TEST(ResumableStream, IsLostWithItsConnectionUntilItIsArmed) {
  Pair pair;
  pair.cut();
  std::byte byte{};
  expect_failure([&] { pair.server->try_read({&byte, 1}); }, Code::kLost, "closed");
  auto [one, other] = make_stream_pair();
  pair.server->entrance()->offer(std::move(one), [](Stream&, std::uint64_t) { ADD_FAILURE(); });
  expect_failure([&] { pair.server->try_read({&byte, 1}); }, Code::kLost, "closed");
}

TEST(ResumableStream, IsLostWhenThereWillBeNoOtherConnection) {
  Pair pair;
  pair.arm();
  pair.cut();
  std::byte byte{};
  EXPECT_EQ(pair.client->try_read({&byte, 1}), std::nullopt);
  pair.client->entrance()->refuse(Error(Code::kGone, "node7: there is no such session"));
  EXPECT_TRUE(is_readable(*pair.client));
  expect_failure(
      [&] {
        pair.client->try_read({&byte, 1});
      },
      Code::kLost, "there is no such session");
  expect_failure(
      [&] {
        pair.client->try_write({&byte, 1});
      },
      Code::kLost, "there is no such session");
}

class DamagedStream final : public Stream {
 public:
  explicit DamagedStream(std::unique_ptr<Stream> below) : below_(std::move(below)) {}
  using Stream::try_write;
  std::optional<std::size_t> try_read(Bytes) override { fail(); }
  std::optional<std::size_t> try_write(ConstBytes, ConstBytes) override { fail(); }
  pollfd read_interest() const override { return below_->read_interest(); }
  pollfd write_interest() const override { return below_->write_interest(); }
  void shutdown_write() override {}
  const std::string& name() const override { return below_->name(); }

 private:
  [[noreturn]] static void fail() { throw Error(Code::kCorrupt, "a damaged record"); }
  std::unique_ptr<Stream> below_;
};

TEST(ResumableStream, TakesADamagedConnectionForALostOne) {
  for (const bool armed : {false, true}) {
    auto [one, other] = make_stream_pair();
    int losses = 0;
    ResumableStream stream(std::make_unique<DamagedStream>(std::move(one)),
                           {Role::kClient, [&losses] { ++losses; }, {}, {}, false, {}});
    std::byte byte{};
    if (armed) {
      stream.entrance()->arm();
      EXPECT_EQ(stream.try_write({&byte, 1}), std::nullopt);
      EXPECT_EQ(stream.try_read({&byte, 1}), std::nullopt);
      EXPECT_EQ(losses, 1);
    } else {
      expect_failure([&] { stream.try_read({&byte, 1}); }, Code::kCorrupt, "damaged");
    }
  }
}

// A relay that has lost what is behind it is gone; one that was told of a good end shuts its side.
TEST(ResumableStream, TellsAGoodEndFromARelayThatHasGone) {
  std::byte byte{};
  Pair told;
  told.arm();
  told.client->shutdown_write();
  EXPECT_EQ(told.server->try_read({&byte, 1}), 0);
  Pair gone;
  gone.arm();
  gone.client.reset();
  EXPECT_EQ(gone.server->try_read({&byte, 1}), std::nullopt);
}

TEST(ResumableStream, ReadsWhatCameAheadOfTheLoss) {
  Pair pair;
  pair.arm();
  const Buffer words = noise(50, 3);
  pair.server->write_all(words, Deadline::in(60s));
  pair.server->shutdown_write();
  pair.server.reset();
  // The connection takes no more, and is not given up for that.
  const Buffer bytes = noise(100, 4);
  EXPECT_EQ(pair.client->try_write(bytes), std::nullopt);
  Buffer room(50);
  EXPECT_EQ(pair.client->try_read(room), words.size());
  EXPECT_EQ(room, words);
}

TEST(ResumableStream, KeepsNoMoreThanItsBound) {
  Pair pair;
  pair.arm();
  const Buffer bytes = noise(ResumableStream::kMaxBlock, 5);
  std::size_t written = 0;
  while (auto count = pair.client->try_write(bytes)) written += *count;
  EXPECT_LE(written, ResumableStream::kMaxUnacknowledged);
  EXPECT_FALSE(pair.client->is_acknowledged());
  // The other end takes what is there, and says so.
  std::size_t read = read_all_there_is(*pair.server).size();
  std::byte byte{};
  EXPECT_EQ(pair.client->try_read({&byte, 1}), std::nullopt);
  EXPECT_TRUE(pair.client->try_write(bytes).has_value());
  EXPECT_GT(read, 0);
}

Buffer block(std::uint32_t kind, std::uint64_t value) {
  Buffer bytes(12);
  std::memcpy(bytes.data(), &kind, sizeof(kind));
  std::memcpy(bytes.data() + sizeof(kind), &value, sizeof(value));
  return bytes;
}

// Whoever waits to write reads too, ahead of poll(2).
TEST(ResumableStream, WakesWhoWaitsForRoomWhenACallToReadHasSeenThatThereIsSome) {
  Pair pair;
  const Buffer bytes = noise(ResumableStream::kMaxBlock, 5);
  std::byte byte{};
  while (pair.client->try_write(bytes)) {
  }
  // What the connection has not taken has gone out since.
  read_all_there_is(*pair.server);
  EXPECT_EQ(pair.client->try_read({&byte, 1}), std::nullopt);
  EXPECT_TRUE(is_readable(*pair.client));
  EXPECT_TRUE(pair.client->try_write(bytes).has_value());
}

TEST(ResumableStream, WakesWhoWaitsForAnAcknowledgement) {
  // Nothing lies in the connection itself.
  auto [one, other] = make_stream_pair();
  widen_send_buffer(one->fd());
  ResumableStream client(std::move(one), {Role::kClient, {}, {}, {}, false, {}});
  const Buffer bytes = noise(ResumableStream::kMaxBlock, 5);
  Buffer room(ResumableStream::kMaxBlock + 12);
  std::size_t written = 0;
  while (auto count = client.try_write(bytes)) {
    written += *count;
    other->read_exactly(room, Deadline::in(60s));
  }
  ASSERT_EQ(written, ResumableStream::kMaxUnacknowledged);
  EXPECT_FALSE(is_readable(client));
  other->write_all(block(2, written), Deadline::in(60s));
  std::byte byte{};
  EXPECT_EQ(client.try_read({&byte, 1}), std::nullopt);
  EXPECT_TRUE(is_readable(client));
  EXPECT_EQ(client.try_write(bytes), bytes.size());
}

TEST(ResumableStream, HearsThatAllHasCome) {
  Pair pair;
  const Buffer bytes = noise(10, 6);
  pair.client->write_all(bytes, Deadline::in(60s));
  EXPECT_EQ(read_all_there_is(*pair.server), bytes);
  EXPECT_EQ(read_all_there_is(*pair.client), Buffer());
  EXPECT_FALSE(pair.client->is_acknowledged());
  pair.client->ask_for_acknowledgement();
  EXPECT_EQ(read_all_there_is(*pair.server), Buffer());
  EXPECT_EQ(read_all_there_is(*pair.client), Buffer());
  EXPECT_TRUE(pair.client->is_acknowledged());
}

TEST(ResumableStream, AsksForAnotherConnectionWhenNothingComes) {
  auto [one, other] = make_stream_pair();
  int losses = 0;
  ResumableStream::Settings settings{Role::kClient, [&] { ++losses; }, 0s, {}, false, {}};
  ResumableStream stream(std::move(one), std::move(settings));
  std::byte byte{};
  EXPECT_EQ(stream.try_read({&byte, 1}), std::nullopt);
  EXPECT_EQ(losses, 0);
  stream.entrance()->arm();
  EXPECT_EQ(stream.try_read({&byte, 1}), std::nullopt);
  EXPECT_EQ(stream.try_read({&byte, 1}), std::nullopt);
  EXPECT_EQ(losses, 1);
}

TEST(ResumableStream, AsksForAnotherConnectionWhenNothingComesInTheMiddleOfABlock) {
  auto [one, other] = make_stream_pair();
  int losses = 0;
  ResumableStream stream(std::move(one),
                         {Role::kClient, [&losses] { ++losses; }, 0s, {}, false, {}});
  other->write_all(block(1, 100), noise(10, 9), Deadline::in(60s));
  Buffer room(50);
  EXPECT_EQ(stream.try_read(room), 10);
  stream.entrance()->arm();
  EXPECT_EQ(stream.try_read(room), std::nullopt);
  EXPECT_EQ(losses, 1);
}

TEST(ResumableStream, CallsWhoeverWatchesSomethingElse) {
  Pair pair;
  auto [one, other] = make_stream_pair();
  int calls = 0;
  pair.server->watch(one->fd(), [&] {
    ++calls;
    pair.server->watch(-1, {});
  });
  EXPECT_EQ(read_all_there_is(*pair.server), Buffer());
  EXPECT_EQ(calls, 0);
  other->write_all(noise(1, 7), Deadline::in(60s));
  EXPECT_TRUE(is_readable(*pair.server));
  EXPECT_EQ(read_all_there_is(*pair.server), Buffer());
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(is_readable(*pair.server));
}

TEST(ResumableStream, RefusesWhatIsNoBlockOfIts) {
  for (const auto& [kind, value] : {std::pair<std::uint32_t, std::uint64_t>{0, 1},
                                    {4, 0},
                                    {1, 0},
                                    {1, ResumableStream::kMaxBlock + 1},
                                    {2, 1},
                                    {2, ~0ULL}}) {
    auto [one, other] = make_stream_pair();
    ResumableStream stream(std::move(one), {Role::kServer, {}, {}, {}, false, {}});
    other->write_all(block(kind, value), Deadline::in(60s));
    std::byte byte{};
    expect_failure([&] { stream.try_read({&byte, 1}); }, Code::kCorrupt, "");
  }
}

TEST(ResumableStream, TakesOffersFromAnotherThread) {
  Pair pair;
  pair.arm();
  constexpr int kTimes = 200;
  Buffer got;
  std::thread reading([&] {
    while (got.size() < kTimes) {
      Buffer room(10);
      got.resize(got.size() + pair.server->read_some(room, Deadline::in(60s)));
    }
  });
  std::thread offering([&, entrance = pair.server->entrance()] {
    for (int i = 0; i < kTimes; ++i) {
      auto [one, other] = make_stream_pair();
      std::atomic<bool> greeted{false};
      std::uint64_t there = 0;
      entrance->offer(std::move(other), [&](Stream&, std::uint64_t received) {
        there = received;
        greeted = true;
      });
      while (!greeted) std::this_thread::yield();
      pair.client->entrance()->offer(std::move(one), there);
      pair.client->write_all(noise(1, 8), Deadline::in(60s));
    }
  });
  offering.join();
  reading.join();
  EXPECT_EQ(got.size(), kTimes);
}

}  // namespace
}  // namespace telefork::net
