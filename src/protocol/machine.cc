#include "protocol/machine.h"

#include <ctime>
#include <string>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/utsname.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif

#include "base/error.h"
#include "kernel/procfs_system.h"

namespace telefork::protocol {
namespace {

using image::schema::Machine;

std::int64_t read_clock(clockid_t clock) {
  timespec time{};
  if (::clock_gettime(clock, &time) != 0) throw_errno("reading a clock");
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// That of this program; as it is linked, also the machine's.
std::string name_libc() {
#ifdef __GLIBC__
  return std::string("glibc ") + ::gnu_get_libc_version();
#else
  return "";
#endif
}

[[noreturn]] void refuse(Machine::Reader source, Machine::Reader destination,
                         const std::string& why) {
  throw Error(Code::kRefused,
              fmt::format("a process of {} cannot run on {}: {}", source.getHostname().cStr(),
                          destination.getHostname().cStr(), why));
}

bool on_one_kernel(Machine::Reader a, Machine::Reader b) {
  return a.getBootId().size() > 0 && a.getBootId() == b.getBootId();
}

}  // namespace

void encode_cpu(const kernel::CpuFacts& facts, Machine::Builder machine) {
  machine.setArchitecture(facts.arch);
  machine.setCpuModel(facts.vendor_model);
  machine.setXcr0(facts.xcr0);
  auto leaves = machine.initCpuLeaves(static_cast<unsigned>(facts.leaves.size()));
  for (unsigned i = 0; i < leaves.size(); ++i) {
    const kernel::CpuLeaf& leaf = facts.leaves[i];
    leaves[i].setLeaf(leaf.leaf);
    leaves[i].setSubleaf(leaf.subleaf);
    leaves[i].setEax(leaf.eax);
    leaves[i].setEbx(leaf.ebx);
    leaves[i].setEcx(leaf.ecx);
    leaves[i].setEdx(leaf.edx);
  }
}

kernel::CpuFacts decode_cpu(Machine::Reader machine) {
  kernel::CpuFacts facts;
  facts.arch = machine.getArchitecture().cStr();
  facts.vendor_model = machine.getCpuModel().cStr();
  facts.xcr0 = machine.getXcr0();
  for (auto leaf : machine.getCpuLeaves()) {
    facts.leaves.push_back({leaf.getLeaf(), leaf.getSubleaf(), leaf.getEax(), leaf.getEbx(),
                            leaf.getEcx(), leaf.getEdx()});
  }
  return facts;
}

void gather_machine(Machine::Builder machine) {
  utsname names{};
  if (::uname(&names) != 0) throw_errno("asking for the machine's name");
  encode_cpu(kernel::cpu_facts(), machine);
  machine.setHostname(names.nodename);
  machine.setBootId(kernel::read_boot_id());
  machine.setKernelRelease(names.release);
  machine.setLibc(name_libc());
  machine.setPageSize(static_cast<std::uint32_t>(::sysconf(_SC_PAGESIZE)));
  machine.setClockRealtime(read_clock(CLOCK_REALTIME));
  machine.setClockMonotonic(read_clock(CLOCK_MONOTONIC));
  machine.setClockBoottime(read_clock(CLOCK_BOOTTIME));
}

OwnMachine::OwnMachine() : root_(message_.initRoot<Machine>()) { gather_machine(root_); }

void check_compatible(Machine::Reader source, Machine::Reader destination, bool cpu_force) {
  if (source.getArchitecture() != destination.getArchitecture()) {
    refuse(source, destination,
           fmt::format("the architecture is {} here and {} there", source.getArchitecture().cStr(),
                       destination.getArchitecture().cStr()));
  }
  if (source.getPageSize() != destination.getPageSize()) {
    refuse(source, destination,
           fmt::format("a page has {} bytes here and {} there", source.getPageSize(),
                       destination.getPageSize()));
  }
  if (on_one_kernel(source, destination) || cpu_force) return;
  std::vector<std::string> missing =
      kernel::missing_features(decode_cpu(source), decode_cpu(destination));
  if (missing.empty()) return;
  refuse(source, destination,
         fmt::format("its CPU lacks {} (--cpu=force tries it nevertheless)",
                     fmt::join(missing, ", ")));
}

void check_can_return(Machine::Reader here, Machine::Reader there) {
  if (on_one_kernel(here, there)) return;
  std::vector<std::string> more = kernel::missing_features(decode_cpu(there), decode_cpu(here));
  if (more.empty()) return;
  refuse(
      here, there,
      fmt::format("the CPU there has {}, which is not here: what chooses its code there could not "
                  "run when it is back; use fork",
                  fmt::join(more, ", ")));
}

}  // namespace telefork::protocol
