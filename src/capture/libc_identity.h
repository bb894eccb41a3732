// Which C library a process runs on.
#pragma once

#include <string>
#include <vector>

#include "capture/survey.h"

namespace telefork::capture {

struct LibcIdentity {
  std::vector<std::byte> build_id;  // NT_GNU_BUILD_ID; empty where there is none
  // Its thread control block is known to be glibc's: a new tid may be written where
  // clear_child_tid points to.
  bool is_glibc = false;
};

// Proof of glibc is a mapped libc.so.6 that exports the version definitions of glibc; a static
// program has no such proof, and keeps its pid or does not move.
LibcIdentity identify_libc(const Survey& survey);

}  // namespace telefork::capture
