#include "tracee/syscall_program.h"

#include <cstddef>

#include <fmt/format.h>

namespace telefork::tracee {
namespace {

constexpr std::size_t kDataAlignment = 64;

// `steps` is how many there are before the undo steps.
StubStep encode_step(const SyscallProgram::Step& step, std::uint64_t data_address,
                     std::size_t steps) {
  StubStep encoded{};
  encoded.number = step.number;
  encoded.success = static_cast<std::uint32_t>(step.success);
  encoded.expected = step.expected;
  for (std::size_t i = 0; i < step.arguments.size(); ++i) {
    const Argument& argument = step.arguments[i];
    encoded.args[i] = argument.value();
    if (argument.kind() == Argument::Kind::kResult) encoded.from_result |= 1u << i;
    if (argument.kind() == Argument::Kind::kData) encoded.args[i] += data_address;
    if (argument.kind() == Argument::Kind::kUndoResult) {
      TELEFORK_ASSERT((argument.value() & Argument::kMaxResult) + steps <= Argument::kMaxResult);
      encoded.args[i] += steps;
      encoded.from_result |= 1u << i;
    }
  }
  return encoded;
}

// What the assembly repeats as numbers.
static_assert(offsetof(StubStep, number) == 0 && offsetof(StubStep, success) == 4);
static_assert(offsetof(StubStep, from_result) == 8 && offsetof(StubStep, args) == 16);
static_assert(offsetof(StubStep, expected) == 64 && offsetof(StubStep, result) == 72);
static_assert(offsetof(StubProgram, steps) == 0 && offsetof(StubProgram, undo_steps) == 8);
static_assert(offsetof(StubProgram, count) == 16 && offsetof(StubProgram, undo_count) == 20);
static_assert(offsetof(StubProgram, failed) == 24 && offsetof(StubProgram, stop_signal) == 28);
static_assert(offsetof(StubProgram, pid) == 32 && offsetof(StubProgram, tid) == 36);
static_assert(offsetof(StubProgram, done_counter) == 40 && offsetof(StubProgram, gate) == 48);
static_assert(offsetof(StubProgram, frame) == 56 && offsetof(StubProgram, hold) == 64);

}  // namespace

Result SyscallProgram::add(std::string name, StepSuccess success, std::int64_t expected,
                           long number, std::initializer_list<Argument> arguments) {
  TELEFORK_ASSERT(arguments.size() <= 6);
  steps_.push_back(
      {std::move(name), static_cast<std::uint32_t>(number), success, expected, arguments});
  return {static_cast<std::uint32_t>(steps_.size() - 1)};
}

Result SyscallProgram::call(std::string name, long number,
                            std::initializer_list<Argument> arguments) {
  return add(std::move(name), StepSuccess::kNoError, 0, number, arguments);
}

Result SyscallProgram::call_expecting(std::string name, std::int64_t expected, long number,
                                      std::initializer_list<Argument> arguments) {
  return add(std::move(name), StepSuccess::kEquals, expected, number, arguments);
}

Result SyscallProgram::call_any(std::string name, long number,
                                std::initializer_list<Argument> arguments) {
  return add(std::move(name), StepSuccess::kAny, 0, number, arguments);
}

void SyscallProgram::add_and_wake(std::string name, Argument address, std::uint32_t amount) {
  add(std::move(name), StepSuccess::kNoError, 0, kOpAdd, {address, amount});
}

void SyscallProgram::wait_until(std::string name, Argument address, std::uint32_t value) {
  add(std::move(name), StepSuccess::kNoError, 0, kOpWait, {address, value});
}

Result SyscallProgram::load(std::string name, Argument address) {
  return add(std::move(name), StepSuccess::kAny, 0, kOpLoad, {address});
}

void SyscallProgram::copy(std::string name, Argument to, Argument from, std::uint64_t size) {
  add(std::move(name), StepSuccess::kAny, 0, kOpCopy, {to, from, size});
}

SyscallProgram SyscallProgram::as_undo() const {
  SyscallProgram program = *this;
  TELEFORK_ASSERT(undo_steps_.empty());
  program.undo_steps_.swap(program.steps_);
  return program;
}

Result SyscallProgram::undo(long number, std::initializer_list<Argument> arguments) {
  undo_steps_.push_back(
      {"undoing", static_cast<std::uint32_t>(number), StepSuccess::kAny, 0, arguments});
  return {static_cast<std::uint32_t>(undo_steps_.size() - 1), 0, true};
}

void SyscallProgram::append_undo(const SyscallProgram& other) {
  const auto before = static_cast<std::uint32_t>(undo_steps_.size());
  for (Step step : other.undo_steps_) {
    for (Argument& argument : step.arguments) {
      if (argument.kind() == Argument::Kind::kUndoResult) {
        argument = argument.behind(before);
      } else {
        TELEFORK_ASSERT(argument.kind() == Argument::Kind::kValue);
      }
    }
    undo_steps_.push_back(std::move(step));
  }
}

Data SyscallProgram::text(std::string_view text) {
  Data data = buffer(text.size() + 1);
  patch(data, std::as_bytes(std::span(text.data(), text.size())));
  return data;
}

Data SyscallProgram::bytes(std::span<const std::byte> bytes) {
  Data data = buffer(bytes.size());
  patch(data, bytes);
  return data;
}

Data SyscallProgram::buffer(std::size_t size) {
  std::size_t offset = round_up(data_.size(), kDataAlignment);
  data_.resize(offset + size);
  return {offset, size};
}

void SyscallProgram::patch(Data where, std::span<const std::byte> bytes) {
  TELEFORK_ASSERT(bytes.size() <= where.size);
  std::copy(bytes.begin(), bytes.end(), data_.begin() + static_cast<std::ptrdiff_t>(where.offset));
}

void SyscallProgram::point(Data where, Data target) {
  TELEFORK_ASSERT(where.size >= sizeof(std::uint64_t));
  pointers_.push_back({where.offset, target.offset});
}

std::size_t SyscallProgram::data_offset() const {
  return round_up(sizeof(StubProgram) + (steps_.size() + undo_steps_.size()) * sizeof(StubStep),
                  kDataAlignment);
}

std::size_t SyscallProgram::loaded_size() const {
  return round_up(data_offset() + data_.size(), kDataAlignment);
}

std::vector<std::byte> SyscallProgram::encode(RemotePtr address, const StubProgram& header) const {
  std::vector<std::byte> bytes(loaded_size());
  std::uint64_t data_address = address.value() + data_offset();
  StubProgram program = header;
  program.steps = address.value() + sizeof(StubProgram);
  program.count = static_cast<std::uint32_t>(steps_.size());
  program.undo_steps = program.steps + steps_.size() * sizeof(StubStep);
  program.undo_count = static_cast<std::uint32_t>(undo_steps_.size());
  program.failed = kStubDone;
  std::memcpy(bytes.data(), &program, sizeof(program));

  std::byte* to = bytes.data() + sizeof(StubProgram);
  for (const std::vector<Step>* list : {&steps_, &undo_steps_}) {
    for (const Step& step : *list) {
      StubStep encoded = encode_step(step, data_address, steps_.size());
      std::memcpy(to, &encoded, sizeof(encoded));
      to += sizeof(encoded);
    }
  }
  std::copy(data_.begin(), data_.end(), bytes.begin() + static_cast<std::ptrdiff_t>(data_offset()));
  for (const Pointer& pointer : pointers_) {
    std::uint64_t target = data_address + pointer.target;
    std::memcpy(bytes.data() + data_offset() + pointer.where, &target, sizeof(target));
  }
  return bytes;
}

ProgramRun::ProgramRun(const SyscallProgram& program, std::vector<std::byte> bytes)
    : data_offset_(program.loaded_size() - round_up(program.data().size(), kDataAlignment)),
      bytes_(std::move(bytes)) {
  TELEFORK_ASSERT(bytes_.size() == program.loaded_size());
}

std::uint32_t ProgramRun::failed() const {
  StubProgram header;
  std::memcpy(&header, bytes_.data(), sizeof(header));
  return header.failed;
}

std::int64_t ProgramRun::result(Result step) const {
  StubStep encoded;
  std::memcpy(&encoded, bytes_.data() + sizeof(StubProgram) + step.step * sizeof(StubStep),
              sizeof(encoded));
  return encoded.result + step.addend;
}

std::span<const std::byte> ProgramRun::data(Data data) const {
  return std::span(bytes_).subspan(data_offset_ + data.offset, data.size);
}

void ProgramRun::check(const SyscallProgram& program) const {
  std::uint32_t index = failed();
  if (index == kStubDone) return;
  if (index >= program.size()) {
    throw Error(Code::kCorrupt,
                fmt::format("the stub says that step {} of {} failed", index, program.size()));
  }
  const SyscallProgram::Step& step = program.steps()[index];
  std::int64_t value = result({index});
  if (value < 0 && value >= -4095) throw_errno(step.name, static_cast<int>(-value));
  throw Error(Code::kFailed, fmt::format("{}: got {:#x} where {:#x} was expected", step.name,
                                         static_cast<std::uint64_t>(value),
                                         static_cast<std::uint64_t>(step.expected)));
}

}  // namespace telefork::tracee
