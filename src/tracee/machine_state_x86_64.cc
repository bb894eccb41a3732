#include "tracee/machine_state.h"

#include <algorithm>
#include <cstring>

#include <asm/ldt.h>
#include <fmt/format.h>
#include <sys/syscall.h>

#include "kernel/abi.h"
#include "tracee/stub_abi.h"

namespace telefork::tracee {
namespace {

constexpr unsigned kTiles = 18;  // the only component that has to be asked for
constexpr std::uint64_t kTilesBit = std::uint64_t{1} << kTiles;
constexpr std::size_t kXstateBvOffset = 512;
constexpr int kReadLdt = 0;
constexpr int kWriteLdt = 0x11;  // all of an entry, as no older form of it does

// What LDTILECFG loads: the smallest of tiles will do to use one.
struct TileConfiguration {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {4};
  std::uint8_t rows[16] = {1};
};
static_assert(sizeof(TileConfiguration) == 64);

unsigned bits(std::uint64_t descriptor, unsigned from, unsigned count) {
  return static_cast<unsigned>(descriptor >> from & ((std::uint64_t{1} << count) - 1));
}

// Intel 64 manual, volume 3, "Segment Descriptors"; as the kernel makes one: asm/desc.h, fill_ldt.
user_desc as_asked_for(unsigned number, std::uint64_t descriptor) {
  user_desc segment{};
  segment.entry_number = number;
  segment.base_addr = bits(descriptor, 16, 24) | bits(descriptor, 56, 8) << 24;
  segment.limit = bits(descriptor, 0, 16) | bits(descriptor, 48, 4) << 16;
  segment.read_exec_only = bits(descriptor, 41, 1) ^ 1;
  segment.contents = bits(descriptor, 42, 2);
  segment.seg_not_present = bits(descriptor, 47, 1) ^ 1;
  segment.useable = bits(descriptor, 52, 1);
  segment.seg_32bit = bits(descriptor, 54, 1);
  segment.limit_in_pages = bits(descriptor, 55, 1);
  return segment;
}

}  // namespace

std::vector<std::byte> read_segments(Stub& stub) {
  constexpr std::size_t kWhole = std::size_t{LDT_ENTRIES} * LDT_ENTRY_SIZE;
  SyscallProgram program;
  const Data table = program.buffer(kWhole);
  const Result size =
      program.call_any("reading segments", SYS_modify_ldt, {kReadLdt, table, kWhole});
  const ProgramRun run = stub.run(program);
  if (run.result(size) <= 0) return {};
  const std::span<const std::byte> bytes = run.data(table);
  // Behind what there is the kernel gives zeros.
  auto last =
      std::find_if(bytes.rbegin(), bytes.rend(), [](std::byte b) { return b != std::byte{}; });
  const auto used = static_cast<std::size_t>(bytes.rend() - last);
  const std::size_t entries = (used + LDT_ENTRY_SIZE - 1) / LDT_ENTRY_SIZE;
  return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(entries * LDT_ENTRY_SIZE)};
}

void add_segments(std::span<const std::byte> table, SyscallProgram& program) {
  for (unsigned i = 0; (i + 1) * std::size_t{LDT_ENTRY_SIZE} <= table.size(); ++i) {
    std::uint64_t descriptor = 0;
    std::memcpy(&descriptor, table.data() + i * std::size_t{LDT_ENTRY_SIZE}, sizeof(descriptor));
    if (descriptor == 0) continue;
    program.call(fmt::format("making segment {}", i), SYS_modify_ldt,
                 {kWriteLdt, program.object(as_asked_for(i, descriptor)), sizeof(user_desc)});
  }
}

MachineQuestion ask_machine_state(SyscallProgram& program) {
  Data components = program.buffer(sizeof(std::uint64_t));
  // EINVAL before Linux 5.16.
  Result answer = program.call_any("asking for the permissions of the xstate", SYS_arch_prctl,
                                   {kernel::kArchGetXcompPerm, components});
  // The kernel writes as many bytes as it is asked for, if there is a table at all; ENOSYS where it
  // was built without.
  Data entry = program.buffer(sizeof(std::uint64_t));
  Result segments = program.call_any("asking for segments", SYS_modify_ldt,
                                     {kReadLdt, entry, sizeof(std::uint64_t)});
  return {answer, components, segments};
}

MachineState machine_state(const ProgramRun& run, const MachineQuestion& question) {
  MachineState state;
  if (run.result(question.components_answer) == 0) {
    state.xstate_permissions = run.object<std::uint64_t>(question.components) & kTilesBit;
  }
  state.has_segments = run.result(question.segments) > 0;
  return state;
}

void add_xstate_permissions(std::uint64_t permissions, SyscallProgram& program) {
  for (unsigned component = 0; component < 64; ++component) {
    if ((permissions >> component & 1) == 0) continue;
    program.call(fmt::format("asking for the use of xstate component {}{}", component,
                             component == kTiles ? " (AMX)" : ""),
                 SYS_arch_prctl, {kernel::kArchReqXcompPerm, component});
  }
}

void add_xstate_room(const std::vector<std::uint8_t>& xstate, SyscallProgram& program) {
  std::uint64_t in_use = 0;
  if (xstate.size() < kXstateBvOffset + sizeof(in_use)) return;
  std::memcpy(&in_use, xstate.data() + kXstateBvOffset, sizeof(in_use));
  if ((in_use & kTilesBit) == 0) return;
  program.call("using a tile of AMX", kOpUseTile, {program.object(TileConfiguration())});
}

}  // namespace telefork::tracee
