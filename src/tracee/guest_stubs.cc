#include "tracee/guest_stubs.h"

#include <utility>

#include "base/error.h"
#include "base/remote_ptr.h"

namespace telefork::tracee {
GuestStubs::GuestStubs(std::span<TracedThread* const> threads, Stub& host, RemotePtr gate)
    : pid_(host.pid()) {
  if (threads.empty()) return;
  std::vector<ThreadState> states;
  states.reserve(threads.size());
  std::uint64_t all = kPageSize;
  for (TracedThread* thread : threads) {
    states.push_back(read_thread_state(*thread));
    all += Stub::guest_size(states.back());
  }
  const RemotePtr room = gate ? host.allocate(all) : host.next_program(all);
  RemotePtr at(round_up(room.value(), kPageSize));
  ScatteredMemory memory(all);
  for (std::size_t i = 0; i < threads.size(); ++i) {
    const std::uint64_t size = Stub::guest_size(states[i]);
    Stub::Guest guest{std::move(states[i]), host.own_tid_of(threads[i]->tid()),
                      Stub::Room{at, size}, gate};
    stubs_.push_back(std::make_unique<Stub>(*threads[i], std::move(guest), host, memory));
    at = at + size;
  }
  memory.write(pid_);
}

void GuestStubs::enter() {
  for (const std::unique_ptr<Stub>& stub : stubs_) stub->enter();
}

GuestStubs::~GuestStubs() = default;

std::vector<ProgramRun> GuestStubs::run(const SyscallProgram& program) {
  // More would be mapped by a thread that others may be running beside.
  TELEFORK_ASSERT(program.loaded_size() <= kGuestProgramSize);
  const std::size_t size = stubs_.size() * program.loaded_size();
  ScatteredMemory programs(size);
  ScatteredMemory results(size);
  for (const std::unique_ptr<Stub>& stub : stubs_) {
    stub->add_program(program, programs);
    results.add(stub->program_address(), program.loaded_size());
  }
  programs.write(pid_);
  for (const std::unique_ptr<Stub>& stub : stubs_) stub->begin();
  for (const std::unique_ptr<Stub>& stub : stubs_) stub->await_begun();
  results.read(pid_);
  std::vector<ProgramRun> runs;
  runs.reserve(stubs_.size());
  for (std::size_t i = 0; i < stubs_.size(); ++i) {
    const std::span<const std::byte> bytes = results.bytes(i);
    runs.emplace_back(program, std::vector<std::byte>(bytes.begin(), bytes.end()));
    runs.back().check(program);
  }
  return runs;
}

void GuestStubs::remove() {
  for (const std::unique_ptr<Stub>& stub : stubs_) stub->begin_to_remove();
  for (const std::unique_ptr<Stub>& stub : stubs_) stub->remove();
  stubs_.clear();
}

void GuestStubs::abandon() {
  for (const std::unique_ptr<Stub>& stub : stubs_) stub->abandon();
  stubs_.clear();
}

}  // namespace telefork::tracee
