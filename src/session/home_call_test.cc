#include "session/home_call.h"

#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/testing_error.h"
#include "net/testing_folder.h"
#include "session/registry.h"

namespace telefork::session {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

class HomeCallTest : public net::InTestFolder {};

HomeAnswer a_good_one() {
  HomeAnswer answer;
  answer.node = "node7";
  answer.bytes_sent = 5'000'000'000;
  answer.pages_sent = 17;
  answer.freeze_ms = 1.5;
  answer.total_ms = 2.25;
  answer.shares = {{"checked", 0.5}, {"whole", 1.75}};
  answer.warnings = {"one\nthing", "another"};
  return answer;
}

TEST(HomeAnswer, ComesBackAsItWas) {
  const HomeAnswer answer = decode_home_answer(encode_home_answer(a_good_one()));
  EXPECT_FALSE(answer.error);
  EXPECT_FALSE(answer.stood_still);
  EXPECT_EQ(answer.node, "node7");
  EXPECT_EQ(answer.bytes_sent, 5'000'000'000U);
  EXPECT_EQ(answer.pages_sent, 17U);
  EXPECT_EQ(answer.freeze_ms, 1.5);
  EXPECT_EQ(answer.total_ms, 2.25);
  EXPECT_THAT(answer.shares, ElementsAre(Pair("checked", 0.5), Pair("whole", 1.75)));
  EXPECT_THAT(answer.warnings, ElementsAre("one thing", "another"));
}

TEST(HomeAnswer, SaysWhyItIsNotHome) {
  HomeAnswer answer;
  answer.error = Error(Code::kRefused, "refused: process 7: it is stopped");
  answer.stood_still = true;
  const HomeAnswer came = decode_home_answer(encode_home_answer(answer));
  ASSERT_TRUE(came.error);
  EXPECT_EQ(came.error->code(), Code::kRefused);
  EXPECT_EQ(came.error->text(), answer.error->text());
  EXPECT_TRUE(came.stood_still);
}

TEST(HomeAnswer, IsNoneWithoutItsEnd) {
  const std::string text = encode_home_answer(a_good_one());
  for (const std::string& wrong :
       {text.substr(0, text.size() - 4), std::string("strange\nend\n")}) {
    EXPECT_EQ(error_of([&] { decode_home_answer(wrong); }).code(), Code::kCorrupt) << wrong;
  }
}

TEST_F(HomeCallTest, IsHeardAndAnswered) {
  HomeCall call(folder());
  std::jthread session([&] {
    pollfd entry{call.fd(), POLLIN, 0};
    ASSERT_EQ(net::poll_until({&entry, 1}, net::Deadline::never()), 1);
    std::optional<HomeCaller> caller = call.try_accept();
    ASSERT_TRUE(caller);
    EXPECT_EQ(caller->stop_at(), "whole");
    EXPECT_FALSE(caller->is_gone());
    caller->answer(a_good_one());
  });
  UniqueFd talk = connect_home_call(call_path(folder(), ::getpid()), "whole");
  EXPECT_EQ(receive_home_answer(talk).node, "node7");
}

TEST_F(HomeCallTest, KnowsThatTheCallerIsGone) {
  HomeCall call(folder());
  UniqueFd talk = connect_home_call(call_path(folder(), ::getpid()), "");
  std::optional<HomeCaller> caller = call.try_accept();
  ASSERT_TRUE(caller);
  talk.reset();
  EXPECT_TRUE(caller->is_gone());
}

TEST_F(HomeCallTest, IsUnreachableWhereNobodyListens) {
  Error error = error_of([&] { connect_home_call(call_path(folder(), ::getpid()), ""); });
  EXPECT_EQ(error.code(), Code::kUnreachable);
  EXPECT_EQ(HomeCall("").fd(), -1);
}

}  // namespace
}  // namespace telefork::session
