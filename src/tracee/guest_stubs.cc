#include "tracee/guest_stubs.h"

#include "base/error.h"
#include "base/remote_ptr.h"

namespace telefork::tracee {

GuestStubs::GuestStubs(std::span<TracedThread* const> threads, Stub& host,
                       const SyscallProgram& program)
    : program_(program) {
  // More would be mapped by a thread that others may be running beside.
  TELEFORK_ASSERT(program.loaded_size() <= kGuestProgramSize);
  std::vector<ThreadState> states;
  std::uint64_t all = kPageSize;
  for (TracedThread* thread : threads) {
    states.push_back(read_thread_state(*thread));
    all += Stub::guest_size(states.back());
  }
  RemotePtr at(round_up(host.next_program(all).value(), kPageSize));
  for (std::size_t i = 0; i < threads.size(); ++i) {
    const std::uint64_t size = Stub::guest_size(states[i]);
    stubs_.push_back(
        std::make_unique<Stub>(*threads[i], std::move(states[i]), host, Stub::Room{at, size}));
    at = at + size;
  }
}

GuestStubs::~GuestStubs() = default;

std::vector<ProgramRun> GuestStubs::run() {
  for (const std::unique_ptr<Stub>& stub : stubs_) stub->begin(program_);
  std::vector<ProgramRun> runs;
  for (const std::unique_ptr<Stub>& stub : stubs_) runs.push_back(stub->finish(program_));
  return runs;
}

void GuestStubs::remove() {
  for (const std::unique_ptr<Stub>& stub : stubs_) stub->begin_to_remove();
  for (const std::unique_ptr<Stub>& stub : stubs_) stub->remove();
  stubs_.clear();
}

}  // namespace telefork::tracee
