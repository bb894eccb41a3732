// A descriptor that a process makes for whoever traces it.
#pragma once

#include <initializer_list>
#include <string>

#include "base/unique_fd.h"
#include "tracee/stub.h"

namespace telefork::tracee {

// The process makes the system call, and closes the descriptor that it has got once this process
// has it too. Empty, with errno, where the call fails.
UniqueFd take_new_fd(Stub& stub, const std::string& name, long number,
                     std::initializer_list<Argument> arguments);

}  // namespace telefork::tracee
