// For tests: what was thrown.
#pragma once

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

}  // namespace telefork
