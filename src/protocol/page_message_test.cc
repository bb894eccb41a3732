#include "protocol/page_message.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/testing_error.h"

namespace telefork::protocol {
namespace {

using Kind = PageMessage::Kind;

TEST(PageMessage, ComesBackAsItWas) {
  for (Kind kind : {Kind::kBegin, Kind::kWant, Kind::kPlaced, Kind::kHold, Kind::kEnough,
                    Kind::kOver, Kind::kPages, Kind::kZeros, Kind::kAll}) {
    const PageMessage sent{kind, 7, 0x7f0000001000, 3};
    const PageMessage got = decode_page_message(encode_page_message(sent));
    EXPECT_EQ(got.kind, sent.kind);
    EXPECT_EQ(got.process, 7u);
    EXPECT_EQ(got.address, 0x7f0000001000u);
    EXPECT_EQ(got.count, 3u);
  }
}

TEST(PageMessage, IsLittleEndianOnTheWire) {
  const auto bytes = encode_page_message({Kind::kPages, 2, 0x1000, 1});
  EXPECT_EQ(bytes[0], std::byte{16});
  EXPECT_EQ(bytes[4], std::byte{2});
  EXPECT_EQ(bytes[9], std::byte{0x10});
  EXPECT_EQ(bytes[16], std::byte{1});
}

Code code_of(PageMessage message) {
  return error_of([&] { decode_page_message(encode_page_message(message)); }).code();
}

TEST(PageMessage, RefusesWhatNobodySays) {
  EXPECT_EQ(code_of({static_cast<Kind>(7), 0, 0, 0}), Code::kCorrupt);
  EXPECT_EQ(code_of({Kind::kWant, 0, 0x1001, 0}), Code::kCorrupt);
  EXPECT_EQ(code_of({Kind::kPages, 0, 0x1000, 0}), Code::kCorrupt);
  EXPECT_EQ(code_of({Kind::kPages, 0, 0x1000, kMaxPagesInMessage + 1}), Code::kCorrupt);
  EXPECT_EQ(code_of({Kind::kZeros, 0, 0x1000, ~std::uint64_t{0}}), Code::kCorrupt);
  auto bytes = encode_page_message({Kind::kAll, 0, 0, 0});
  bytes[2] = std::byte{1};
  EXPECT_THROW(decode_page_message(bytes), Error);
}

}  // namespace
}  // namespace telefork::protocol
