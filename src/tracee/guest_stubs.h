// Stubs in many stopped threads of a process, which run their programs at the same time.
//
//     GuestStubs guests(threads, host, program);
//     std::vector<ProgramRun> runs = guests.run();
//     guests.remove();
//
// To wake a thread that waits on another CPU, and to be woken by it, costs more than what a short
// program does: here one is waited for while the others run. All lie in the pages of `host`, a stub
// of the same process, which may run nothing meanwhile. What is said of a Stub when the tracer dies
// goes for each of them.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "tracee/stub.h"

namespace telefork::tracee {

class GuestStubs {
 public:
  // Enters all of them. Throws as Stub does.
  GuestStubs(std::span<TracedThread* const> threads, Stub& host, const SyscallProgram& program);
  GuestStubs(const GuestStubs&) = delete;
  GuestStubs& operator=(const GuestStubs&) = delete;
  // Removes those that are in place, swallowing the error of a process that has ended meanwhile.
  ~GuestStubs();

  // What each has answered, in their order. Throws as Stub::run().
  std::vector<ProgramRun> run();
  const Stub& operator[](std::size_t index) const { return *stubs_[index]; }
  // Gives every thread back its state.
  void remove();

 private:
  const SyscallProgram& program_;
  std::vector<std::unique_ptr<Stub>> stubs_;
};

}  // namespace telefork::tracee
