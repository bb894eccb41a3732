// Stubs in many stopped threads of a process, which run their programs at the same time.
//
//     GuestStubs guests(threads, host);
//     std::vector<ProgramRun> runs = guests.run(program);
//     guests.remove();
//
// To wake a thread that waits on another CPU, and to be woken by it, costs more than what a short
// program does: here one is waited for while the others run. All lie in the pages of `host`, a stub
// of the same process, which may run nothing meanwhile, unless they stay. What is said of a Stub
// when the tracer dies goes for each of them; on its way out each of those that stay waits at a
// gate.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "tracee/stub.h"

namespace telefork::tracee {

class GuestStubs {
 public:
  // They enter their threads with the first program, or when they are told to. With a gate, the
  // address of a u32, they stay: they have room of their own, and none goes on before that is not
  // 0. Throws as Stub does.
  GuestStubs(std::span<TracedThread* const> threads, Stub& host, RemotePtr gate = {});
  GuestStubs(const GuestStubs&) = delete;
  GuestStubs& operator=(const GuestStubs&) = delete;
  // Removes those that are in place, swallowing the error of a process that has ended meanwhile.
  ~GuestStubs();

  void enter();
  // What each has answered, in their order. Throws as Stub::run(); then they may only be removed.
  std::vector<ProgramRun> run(const SyscallProgram& program);
  std::size_t size() const { return stubs_.size(); }
  const Stub& operator[](std::size_t index) const { return *stubs_[index]; }
  // Gives every thread back its state.
  void remove();
  // There is nothing to give back: see Stub::abandon().
  void abandon();

 private:
  pid_t pid_;
  std::vector<std::unique_ptr<Stub>> stubs_;
};

}  // namespace telefork::tracee
