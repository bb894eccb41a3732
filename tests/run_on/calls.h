// What the tests of run_on share, on top of ../fork/scene.h.
#pragma once

#include <string>
#include <utility>

#include "scene.h"

namespace fork_test {

using ACall = AFork;

// telefork::run_on(), which has to work.
template <class F>
auto call_on(const std::string& node, F&& function, const telefork::Options& options = {}) {
  try {
    return telefork::run_on(node, std::forward<F>(function), options);
  } catch (const telefork::Error& error) {
    fail_here(std::string("telefork::run_on: ") + error.what(), Where::current());
  }
}

// Why it did not work, which it must not.
template <class F>
std::string error_of_call(const std::string& node, F&& function,
                          const telefork::Options& options = {}) {
  try {
    telefork::run_on(node, std::forward<F>(function), options);
  } catch (const telefork::Error& error) {
    return error.what();
  }
  fail_here("run_on worked", Where::current());
}

}  // namespace fork_test
