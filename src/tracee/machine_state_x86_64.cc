#include "tracee/machine_state.h"

#include <cstring>

#include <fmt/format.h>
#include <sys/syscall.h>

#include "kernel/abi.h"
#include "tracee/stub_abi.h"

namespace telefork::tracee {
namespace {

constexpr unsigned kTileData = 18;  // the only component that has to be asked for
constexpr std::uint64_t kTileDataBit = std::uint64_t{1} << kTileData;
constexpr std::size_t kXstateBvOffset = 512;
constexpr int kReadLdt = 0;

// What LDTILECFG loads: the smallest of tiles will do to use one.
struct TileConfiguration {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {4};
  std::uint8_t rows[16] = {1};
};
static_assert(sizeof(TileConfiguration) == 64);

}  // namespace

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
    state.xstate_permissions = run.object<std::uint64_t>(question.components) & kTileDataBit;
  }
  state.has_segments = run.result(question.segments) > 0;
  return state;
}

void add_xstate_permissions(std::uint64_t permissions, SyscallProgram& program) {
  for (unsigned component = 0; component < 64; ++component) {
    if ((permissions >> component & 1) == 0) continue;
    program.call(fmt::format("asking for the use of xstate component {}{}", component,
                             component == kTileData ? " (AMX)" : ""),
                 SYS_arch_prctl, {kernel::kArchReqXcompPerm, component});
  }
}

void add_xstate_room(const std::vector<std::uint8_t>& xstate, SyscallProgram& program) {
  std::uint64_t in_use = 0;
  if (xstate.size() < kXstateBvOffset + sizeof(in_use)) return;
  std::memcpy(&in_use, xstate.data() + kXstateBvOffset, sizeof(in_use));
  if ((in_use & kTileDataBit) == 0) return;
  program.call("using a tile of AMX", kOpUseTile, {program.object(TileConfiguration())});
}

}  // namespace telefork::tracee
