#include "base/error.h"

#include <cerrno>

#include <gtest/gtest.h>

namespace telefork {
namespace {

TEST(Error, SaysWhatWasBeingDoneOutermostFirst) {
  try {
    with_context("restoring memory", [] { throw_errno("mapping a page", ENOMEM); });
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.text(), "restoring memory: mapping a page: Cannot allocate memory");
    EXPECT_EQ(error.code(), Code::kResources);
    EXPECT_EQ(error.error(), ENOMEM);
  }
}

TEST(Error, KeepsACodeThatIsMoreSpecificThanTheErrnos) {
  try {
    throw_errno("connecting", ENOMEM, Code::kUnreachable);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kUnreachable);
  }
}

}  // namespace
}  // namespace telefork
