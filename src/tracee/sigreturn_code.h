// The instructions that return from a signal handler, as find_sigreturn() (registers.h) finds them.
#pragma once

#include <cstddef>
#include <span>

namespace telefork::tracee {

std::span<const std::byte> sigreturn_code();

}  // namespace telefork::tracee
