#include "abi/agent.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "telefork/telefork.h"

namespace telefork {
namespace {

constexpr bool same(telefork_code published, Code code) {
  return static_cast<int>(published) == static_cast<int>(code);
}

static_assert(same(TELEFORK_FAILED, Code::kFailed));
static_assert(same(TELEFORK_USAGE, Code::kUsage));
static_assert(same(TELEFORK_REFUSED, Code::kRefused));
static_assert(same(TELEFORK_UNREACHABLE, Code::kUnreachable));
static_assert(same(TELEFORK_UNAUTHORISED, Code::kUnauthorised));
static_assert(same(TELEFORK_LOST, Code::kLost));
static_assert(same(TELEFORK_CORRUPT, Code::kCorrupt));
static_assert(same(TELEFORK_RESOURCES, Code::kResources));
static_assert(same(TELEFORK_UNSUPPORTED, Code::kUnsupported));
static_assert(same(TELEFORK_GONE, Code::kGone));

TEST(AgentAbi, EveryPublishedCodeHasANameOfItsOwn) {
  EXPECT_EQ(TELEFORK_OK, 0);
  for (int code = TELEFORK_FAILED + 1; code <= TELEFORK_GONE; ++code) {
    EXPECT_NE(code_name(static_cast<Code>(code)), code_name(Code::kFailed)) << code;
  }
}

}  // namespace
}  // namespace telefork
