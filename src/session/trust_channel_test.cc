#include "session/trust_channel.h"

#include <tuple>

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/testing_error.h"
#include "net/stream.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;

class TrustChannelTest : public ::testing::Test {
 protected:
  TrustChannelTest() {
    auto [telepad, keeper] = make_socket_pair(SOCK_SEQPACKET);
    telepad_ = std::move(telepad);
    asker_ = TrustAsker(std::move(keeper));
  }
  // True when there was a question.
  bool answer(const std::optional<std::string>& why) {
    bool asked = false;
    EXPECT_TRUE(TrustChannel::try_take_question(telepad_.get(), asked));
    if (asked) TrustChannel::send_verdict(telepad_.get(), why);
    return asked;
  }

  UniqueFd telepad_;
  TrustAsker asker_;
};

TEST_F(TrustChannelTest, AnswersAQuestionOnce) {
  EXPECT_FALSE(answer(std::nullopt));
  asker_.ask();
  EXPECT_TRUE(answer(std::nullopt));
  asker_.await_answer(net::Deadline::never());
  EXPECT_FALSE(answer(std::nullopt));
}

TEST_F(TrustChannelTest, SaysWhyNot) {
  asker_.ask();
  EXPECT_TRUE(answer("this key is nobody's"));
  EXPECT_EQ(error_of([&] { asker_.await_answer(net::Deadline::never()); }).code(),
            Code::kUnauthorised);
}

TEST_F(TrustChannelTest, TakesAWordThatCameBeforeTheQuestion) {
  TrustChannel::send_verdict(telepad_.get(), "this key is nobody's");
  EXPECT_EQ(error_of([&] { asker_.take_word(); }).code(), Code::kUnauthorised);
  TrustChannel::send_verdict(telepad_.get(), "this key is nobody's");
  asker_.ask();
  EXPECT_TRUE(answer(std::nullopt));
  EXPECT_EQ(error_of([&] { asker_.await_answer(net::Deadline::never()); }).code(),
            Code::kUnauthorised);
}

TEST_F(TrustChannelTest, CutsALongText) {
  asker_.ask();
  EXPECT_TRUE(answer(std::string(100'000, 'x')));
  EXPECT_EQ(error_of([&] { asker_.await_answer(net::Deadline::never()); }).code(),
            Code::kUnauthorised);
}

TEST_F(TrustChannelTest, IsNotTrustedByNobody) {
  asker_.ask();
  telepad_.reset();
  EXPECT_EQ(error_of([&] { asker_.await_answer(net::Deadline::never()); }).code(), Code::kLost);
  EXPECT_FALSE(asker_.take_word());
  EXPECT_EQ(error_of([&] { asker_.ask(); }).code(), Code::kLost);
}

TEST_F(TrustChannelTest, PassesAConnectionInThePlaceOfALostOne) {
  for (const bool pages : {false, true}) {
    auto [one, other] = make_socket_pair(SOCK_STREAM);
    TrustChannel::send_resumption(telepad_.get(), other.get(), pages);
    other.reset();
    EXPECT_TRUE(asker_.take_word());
    EXPECT_FALSE(asker_.take_join());
    std::optional<TrustAsker::Resumption> came = asker_.take_resumption();
    ASSERT_TRUE(came);
    EXPECT_EQ(came->pages, pages);
    const char word = 'x';
    EXPECT_EQ(::send(came->connection.get(), &word, 1, 0), 1);
    char heard = 0;
    EXPECT_EQ(::recv(one.get(), &heard, 1, MSG_DONTWAIT), 1);
    EXPECT_FALSE(asker_.take_resumption());
  }
}

// A telepad waits for nobody.
TEST_F(TrustChannelTest, RefusesAConnectionWhereTheKeeperIsTooBusy) {
  auto [one, other] = make_socket_pair(SOCK_STREAM);
  std::optional<Code> refused;
  for (int times = 0; times < 100'000 && !refused; ++times) {
    try {
      TrustChannel::send_resumption(telepad_.get(), other.get(), false);
    } catch (const Error& error) {
      refused = error.code();
    }
  }
  EXPECT_TRUE(refused.has_value());
}

TEST_F(TrustChannelTest, KnowsThatAKeeperHasEnded) {
  asker_ = TrustAsker();
  bool asked = false;
  EXPECT_FALSE(TrustChannel::try_take_question(telepad_.get(), asked));
  // Without a channel there is nobody to ask: no session by key.
  asker_.ask();
  asker_.await_answer(net::Deadline::now());
}

}  // namespace
}  // namespace telefork::session
