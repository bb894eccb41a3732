// For tests: what was thrown.
#pragma once

#include <string>

#include <gtest/gtest.h>

#include "base/error.h"

namespace telefork {

template <class F>
Error error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return {Code::kFailed, ""};
}

// That it is kCorrupt, and says so.
template <class F>
void expect_corrupt(F&& f, const std::string& why) {
  const Error error = error_of(f);
  EXPECT_EQ(error.code(), Code::kCorrupt);
  EXPECT_NE(error.text().find(why), std::string::npos) << error.text();
}

}  // namespace telefork
