#include "protocol/message.h"

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace telefork::protocol {
namespace {

using schema::Message;
using ::testing::HasSubstr;

std::vector<std::byte> sample() {
  return encode_message([](Message::Builder message) {
    auto reply = message.initCheckFilesReply().initVerdicts(2);
    reply[0].setVerdict(schema::FileVerdict::Verdict::HASHED);
    reply[0].setPath("/usr/bin/true");
    reply[1].setWhy("not there");
  });
}

TEST(Message, ArrivesAsItWasFilled) {
  ReceivedMessage message(sample());
  ASSERT_TRUE(message->isCheckFilesReply());
  EXPECT_STREQ(message->getCheckFilesReply().getVerdicts()[1].getWhy().cStr(), "not there");
  ReceivedMessage moved = std::move(message);
  EXPECT_STREQ(moved->getCheckFilesReply().getVerdicts()[0].getPath().cStr(), "/usr/bin/true");
}

TEST(Message, KnowsEveryMemberOfItsUnions) {
  ReceivedMessage go(encode_message([](Message::Builder message) { message.setGo(); }));
  EXPECT_TRUE(go->isGo());
  ReceivedMessage killed(encode_message([](Message::Builder message) {
    auto group = message.initStatus().initKilled();
    group.setSignal(11);
    group.setCore(true);
  }));
  EXPECT_EQ(killed->getStatus().getKilled().getSignal(), 11U);
  EXPECT_EQ(message_name(Message::STDIO_DATA), "stdioData");
  EXPECT_EQ(message_name(static_cast<Message::Which>(999)), "unknown");
}

TEST(Message, IsRefusedWhereverItIsCut) {
  auto bytes = sample();
  for (std::size_t cut = 0; cut < bytes.size(); ++cut) {
    try {
      ReceivedMessage message{std::span(bytes).first(cut)};
      ADD_FAILURE() << "taken with " << cut << " bytes";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kCorrupt);
    }
  }
}

TEST(Message, IsTakenOrRefusedWithAnyByteFlipped) {
  const auto bytes = sample();
  for (std::size_t i = 0; i < bytes.size() * 8; ++i) {
    auto flipped = bytes;
    flipped[i / 8] ^= static_cast<std::byte>(1U << (i % 8));
    try {
      ReceivedMessage message(flipped);
      if (message->isCheckFilesReply()) {
        for (auto one : message->getCheckFilesReply().getVerdicts()) one.getWhy().size();
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kCorrupt);
    }
  }
}

TEST(Message, CarriesAnErrorToTheOtherMachineAndNamesTheNode) {
  Error sent(Code::kResources, "restoring memory", ENOMEM);
  ReceivedMessage message(encode_message(
      [&](Message::Builder builder) { encode_failure(sent, builder.initFailed()); }));
  Error received = decode_failure(message->getFailed(), "node7");
  EXPECT_EQ(received.code(), Code::kResources);
  EXPECT_EQ(received.error(), ENOMEM);
  EXPECT_EQ(received.text(), "node7: restoring memory: Cannot allocate memory");
}

TEST(Message, TakesAnUnknownCodeForFailed) {
  ReceivedMessage message(encode_message([&](Message::Builder builder) {
    auto failed = builder.initFailed();
    failed.setCode(77);
    failed.setErrno(12345);
    failed.setText("something new");
  }));
  Error received = decode_failure(message->getFailed(), "node7");
  EXPECT_EQ(received.code(), Code::kFailed);
  EXPECT_EQ(received.text(), "node7: something new");
}

TEST(Message, SaysOfEachRefusalOnceThatItIsOne) {
  const Error sent(Code::kRefused, "refused: fd 3: close it\nrefused: fd 4: close it");
  ReceivedMessage message(encode_message(
      [&](Message::Builder builder) { encode_failure(sent, builder.initFailed()); }));
  EXPECT_EQ(decode_failure(message->getFailed(), "node7").text(),
            "node7: fd 3: close it\nnode7: fd 4: close it");
}

TEST(Message, SaysWhatCameInsteadOfWhat) {
  ReceivedMessage message(encode_message([](Message::Builder builder) { builder.setGo(); }));
  try {
    throw_unexpected(message, "ready");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kCorrupt);
    EXPECT_THAT(error.text(), HasSubstr("'go' came where 'ready' was expected"));
  }
}

}  // namespace
}  // namespace telefork::protocol
