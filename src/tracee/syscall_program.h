// A program of system calls for the stub: what has to happen inside another process, compiled in
// ordinary code outside of it.
//
//     SyscallProgram program;
//     Result fd = program.call("opening the log", SYS_openat,
//                              {AT_FDCWD, program.text("/tmp/log"), O_RDWR | O_CLOEXEC});
//     program.call_expecting("moving it to fd 7", 7, SYS_dup3, {fd, 7, 0});
//     Data name = program.buffer(16);
//     program.call("reading the name", SYS_prctl, {PR_GET_NAME, name});
//     ProgramRun run = stub.run(program);           // throws an Error that names the failing step
//     run.data(name)
//
// Arguments are numbers, results of earlier steps (fd + 8 also works), or addresses of data that
// travels with the program and can be read back. Steps run in order and stop at the first whose
// result is not a success. Undo steps run, whatever they return, only if the tracer dies before it
// could set the process right itself; see stub_abi.h.
//
// A value; no process is involved until a Stub loads it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/remote_ptr.h"
#include "tracee/stub_abi.h"

namespace telefork::tracee {

// The result of an earlier step, plus a number.
struct Result {
  std::uint32_t step;
  std::int64_t addend = 0;
  bool of_undo = false;  // of an undo step: known to other undo steps only
  Result operator+(std::int64_t more) const { return {step, addend + more, of_undo}; }
};

// Bytes that travel with the program, at an offset of its data.
struct Data {
  std::size_t offset;
  std::size_t size;
  Data operator+(std::size_t more) const { return {offset + more, size - more}; }
};

class Argument {
 public:
  enum class Kind { kValue, kResult, kUndoResult, kData };
  // NOLINTBEGIN(google-explicit-constructor): meant to convert
  template <class T>
  requires std::is_integral_v<T> || std::is_enum_v<T> Argument(T value)
      : value_(static_cast<std::uint64_t>(value)) {}
  Argument(RemotePtr address) : value_(address.value()) {}
  Argument(Result result)
      : kind_(result.of_undo ? Kind::kUndoResult : Kind::kResult),
        value_(result.step | (static_cast<std::uint64_t>(result.addend) << 16)) {
    TELEFORK_ASSERT(result.step <= kMaxResult);
  }
  Argument(Data data) : kind_(Kind::kData), value_(data.offset) {}
  // NOLINTEND(google-explicit-constructor)

  Kind kind() const { return kind_; }
  std::uint64_t value() const { return value_; }
  static constexpr std::uint32_t kMaxResult = 0xffff;  // what 16 bits hold
  // Of a result: the same of a step that comes so many later.
  Argument behind(std::uint32_t steps) const {
    Argument later = *this;
    later.value_ += steps;
    TELEFORK_ASSERT((value_ & kMaxResult) + steps <= kMaxResult);
    return later;
  }

 private:
  Kind kind_ = Kind::kValue;
  std::uint64_t value_ = 0;
};

class SyscallProgram {
 public:
  struct Step {
    std::string name;
    std::uint32_t number;
    StepSuccess success;
    std::int64_t expected;
    std::vector<Argument> arguments;
  };

  // A step that succeeds unless it returns an errno. `name` completes "…: Permission denied".
  Result call(std::string name, long number, std::initializer_list<Argument> arguments);
  // One that must return exactly `expected`.
  Result call_expecting(std::string name, std::int64_t expected, long number,
                        std::initializer_list<Argument> arguments);
  // One whose result is looked at by whoever runs the program, or by nobody.
  Result call_any(std::string name, long number, std::initializer_list<Argument> arguments);
  // Operations on a u32 in the process's memory: see stub_abi.h.
  void add_and_wake(std::string name, Argument address, std::uint32_t amount);
  void wait_until(std::string name, Argument address, std::uint32_t value);
  Result load(std::string name, Argument address);
  void copy(std::string name, Argument to, Argument from, std::uint64_t size);

  // An undo step, which may name results of steps: 0 where one was not reached.
  Result undo(long number, std::initializer_list<Argument> arguments);
  // The undo steps of another program behind its own; they may have plain values, and results of
  // one another, only.
  void append_undo(const SyscallProgram& other);
  // The same, with its steps as undo steps: what a thread does behind a gate. Its success is not
  // asked for.
  SyscallProgram as_undo() const;

  Data text(std::string_view text);
  Data bytes(std::span<const std::byte> bytes);
  Data buffer(std::size_t size);
  template <class T>
  Data object(const T& object) {
    static_assert(std::is_trivially_copyable_v<T>);
    return bytes(std::as_bytes(std::span(&object, 1)));
  }
  // Overwrites data made before: for what is known only when all of it has been laid out.
  void patch(Data where, std::span<const std::byte> bytes);
  // An 8-byte word at `where` becomes the address that `target` has once the program is loaded.
  void point(Data where, Data target);

  const std::vector<Step>& steps() const { return steps_; }
  const std::vector<Step>& undo_steps() const { return undo_steps_; }
  const std::vector<std::byte>& data() const { return data_; }
  struct Pointer {
    std::size_t where;
    std::size_t target;
  };
  const std::vector<Pointer>& pointers() const { return pointers_; }
  bool empty() const { return steps_.empty(); }
  bool has_undo() const { return !undo_steps_.empty(); }
  std::size_t size() const { return steps_.size(); }

  // Bytes that it takes up in the process: StubProgram, steps, undo steps and data.
  std::size_t loaded_size() const;
  // Its bytes for the given address. The fields of StubProgram that belong to a thread (pid, tid,
  // signal, counter, gate, frame) are taken from `header`.
  std::vector<std::byte> encode(RemotePtr address, const StubProgram& header) const;

 private:
  Result add(std::string name, StepSuccess success, std::int64_t expected, long number,
             std::initializer_list<Argument> arguments);
  std::size_t data_offset() const;

  std::vector<Step> steps_;
  std::vector<Step> undo_steps_;
  std::vector<std::byte> data_;
  std::vector<Pointer> pointers_;
};

// What a program left behind: results and data.
class ProgramRun {
 public:
  // `bytes` as read back from the process.
  ProgramRun(const SyscallProgram& program, std::vector<std::byte> bytes);

  // Index of the step that failed; kStubDone where all of them succeeded.
  std::uint32_t failed() const;
  std::int64_t result(Result step) const;
  std::span<const std::byte> data(Data data) const;
  template <class T>
  T object(Data data) const {
    T object;
    TELEFORK_ASSERT(data.size >= sizeof(T));
    std::memcpy(&object, this->data(data).data(), sizeof(T));
    return object;
  }
  // Throws an Error with the name and the errno of the step that failed, if one did.
  void check(const SyscallProgram& program) const;

 private:
  std::size_t data_offset_;
  std::vector<std::byte> bytes_;
};

}  // namespace telefork::tracee
