// What the process has once, whatever its threads do.
#include <link.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "capture/capture.h"
#include "capture/libc_identity.h"
#include "capture/removed_directory.h"
#include "kernel/abi.h"
#include "tracee/machine_state.h"
#include "tracee/memory.h"

namespace telefork::capture {
namespace {

using tracee::Data;
using tracee::ProgramRun;
using tracee::Result;
using tracee::SyscallProgram;

// What only the process itself can ask the kernel.
struct OwnAnswers {
  std::uint64_t brk;
  int dumpable;
  int keep_caps;
  int child_subreaper;
  int thp_disable;
  unsigned securebits;
  std::int64_t monotonic;
  std::int64_t boottime;
  unsigned membarrier;
  bool memory_merge;
  unsigned mdwe;
  tracee::MachineState machine;
};

std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

OwnAnswers ask(tracee::Stub& stub) {
  SyscallProgram program;
  Result brk = program.call("asking for the program break", SYS_brk, {0});
  Result dumpable = program.call("asking for dumpable", SYS_prctl, {PR_GET_DUMPABLE, 0, 0, 0, 0});
  Result keep_caps = program.call("asking for keepcaps", SYS_prctl, {PR_GET_KEEPCAPS, 0, 0, 0, 0});
  Data subreaper = program.buffer(sizeof(int));
  program.call("asking for the subreaper flag", SYS_prctl,
               {PR_GET_CHILD_SUBREAPER, subreaper, 0, 0, 0});
  Result thp = program.call("asking for THP_DISABLE", SYS_prctl, {PR_GET_THP_DISABLE, 0, 0, 0, 0});
  Result securebits =
      program.call("asking for securebits", SYS_prctl, {PR_GET_SECUREBITS, 0, 0, 0, 0});
  Data monotonic = program.buffer(sizeof(timespec));
  Data boottime = program.buffer(sizeof(timespec));
  program.call("asking for the time", SYS_clock_gettime, {CLOCK_MONOTONIC, monotonic});
  program.call("asking for the time", SYS_clock_gettime, {CLOCK_BOOTTIME, boottime});
  // EINVAL in an older kernel.
  Result membarrier = program.call_any("asking for membarrier registrations", SYS_membarrier,
                                       {kernel::kMembarrierGetRegistrations, 0, 0});
  Result merge = program.call_any("asking for MEMORY_MERGE", SYS_prctl,
                                  {kernel::kPrGetMemoryMerge, 0, 0, 0, 0});
  Result mdwe = program.call_any("asking for MDWE", SYS_prctl, {kernel::kPrGetMdwe, 0, 0, 0, 0});
  tracee::MachineQuestion machine = tracee::ask_machine_state(program);
  ProgramRun run = stub.run(program);
  return {static_cast<std::uint64_t>(run.result(brk)),
          static_cast<int>(run.result(dumpable)),
          static_cast<int>(run.result(keep_caps)),
          run.object<int>(subreaper),
          static_cast<int>(run.result(thp)),
          static_cast<unsigned>(run.result(securebits)),
          nanoseconds(run.object<timespec>(monotonic)),
          nanoseconds(run.object<timespec>(boottime)),
          static_cast<unsigned>(std::max<std::int64_t>(0, run.result(membarrier))),
          run.result(merge) == 1,
          static_cast<unsigned>(std::max<std::int64_t>(0, run.result(mdwe))),
          tracee::machine_state(run, machine)};
}

// What mlockall(2) has said of mappings to come no call tells. The stub's is one of them.
unsigned read_lock_of_the_future(const tracee::Stub& stub) {
  if (kernel::read_status(stub.pid()).locked_kb == 0) return 0;
  for (const kernel::Vma& vma : kernel::read_smaps(stub.pid())) {
    if (vma.end <= stub.area()) continue;
    if (!vma.has(kernel::VmFlag::kLocked)) return 0;
    return MCL_FUTURE | (vma.has(kernel::VmFlag::kLockOnFault) ? MCL_ONFAULT : 0);
  }
  return 0;
}

void fill_layout(const Survey& survey, std::uint64_t brk,
                 image::schema::MemoryLayout::Builder layout) {
  const kernel::Stat& stat = survey.stat;
  layout.setStartCode(stat.start_code.value());
  layout.setEndCode(stat.end_code.value());
  layout.setStartData(stat.start_data.value());
  layout.setEndData(stat.end_data.value());
  layout.setStartBrk(stat.start_brk.value());
  layout.setBrk(brk);
  layout.setStartStack(stat.start_stack.value());
  layout.setArgStart(stat.arg_start.value());
  layout.setArgEnd(stat.arg_end.value());
  layout.setEnvStart(stat.env_start.value());
  layout.setEnvEnd(stat.env_end.value());
  kernel::AuxVector auxv = kernel::read_auxv(survey.pid);
  static_assert(sizeof(auxv[0]) == 2 * sizeof(std::uint64_t));
  layout.setAuxv(::capnp::Data::Reader(reinterpret_cast<const kj::byte*>(auxv.data()),
                                       auxv.size() * sizeof(auxv[0])));
}

// From inside: from outside it takes CAP_SYS_RESOURCE where any of its user ids differs from ours.
void fill_limits(tracee::Stub& stub, image::schema::Process::Builder process) {
  SyscallProgram program;
  std::vector<Data> answers;
  for (unsigned resource = 0; resource < RLIM_NLIMITS; ++resource) {
    answers.push_back(program.buffer(sizeof(rlimit)));
    program.call(fmt::format("reading limit {}", resource), SYS_prlimit64,
                 {0, resource, 0, answers.back()});
  }
  ProgramRun run = stub.run(program);
  auto limits = process.initLimits(RLIM_NLIMITS);
  for (unsigned resource = 0; resource < RLIM_NLIMITS; ++resource) {
    auto limit = run.object<rlimit>(answers[resource]);
    limits[resource].setResource(resource);
    limits[resource].setSoft(limit.rlim_cur);
    limits[resource].setHard(limit.rlim_max);
  }
}

void fill_vdso(const Survey& survey, image::schema::Vdso::Builder record) {
  for (const Mapping& mapping : survey.mappings) {
    if (mapping.kind == image::schema::Vma::Kind::VVAR && record.getVvarStart() == 0) {
      record.setVvarStart(mapping.vma.start.value());
    }
    if (mapping.kind != image::schema::Vma::Kind::VDSO) continue;
    std::vector<std::byte> code(mapping.vma.size());
    tracee::read_memory(survey.pid, mapping.vma.start, code);
    record.setStart(mapping.vma.start.value());
    record.setEnd(mapping.vma.end.value());
    record.setCode(
        ::capnp::Data::Reader(reinterpret_cast<const kj::byte*>(code.data()), code.size()));
  }
}

// The kernel tells the offsets of the namespace that children are born into, which a program may
// have made another one than its own (unshare(2)).
bool knows_time_offsets(pid_t pid) {
  try {
    return kernel::read_ns_link(pid, "time") == kernel::read_ns_link(pid, "time_for_children");
  } catch (const Error& error) {
    if (error.error() != ENOENT) throw;
    return true;  // a kernel without time namespaces
  }
}

void fill_clocks(pid_t pid, const OwnAnswers& own, image::schema::Clocks::Builder clocks) {
  clocks.setMonotonic(own.monotonic);
  clocks.setBoottime(own.boottime);
  if (!knows_time_offsets(pid)) return;
  kernel::TimeNamespaceOffsets offsets = kernel::try_read_timens_offsets(pid);
  clocks.setBootId(kernel::read_boot_id());
  clocks.setMonotonicOffset(offsets.monotonic.total_nanoseconds());
  clocks.setBoottimeOffset(offsets.boottime.total_nanoseconds());
}

void fill_arguments(pid_t pid, image::schema::Process::Builder process) {
  std::string line = kernel::read_cmdline(pid);
  std::vector<std::string> arguments;
  for (std::size_t at = 0; at < line.size();) {
    std::size_t end = std::min(line.find('\0', at), line.size());
    arguments.push_back(line.substr(at, end - at));
    at = end + 1;
  }
  auto list = process.initArguments(static_cast<unsigned>(arguments.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    list.set(i, ::capnp::Data::Reader(reinterpret_cast<const kj::byte*>(arguments[i].data()),
                                      arguments[i].size()));
  }
}

void fill_directories(pid_t pid, image::schema::Process::Builder process) {
  const std::string cwd = kernel::read_cwd_link(pid);
  const std::string root = kernel::read_root_link(pid);
  process.setCwd(cwd);
  process.setCwdMode(find_mode_of_removed_directory(cwd, kernel::cwd_path(pid)));
  process.setRoot(root);
  process.setRootMode(find_mode_of_removed_directory(root, kernel::root_path(pid)));
}

}  // namespace

void fill_credentials(const kernel::Status& status, unsigned securebits,
                      image::schema::Credentials::Builder credentials) {
  credentials.setUids({status.uids.begin(), status.uids.size()});
  credentials.setGids({status.gids.begin(), status.gids.size()});
  credentials.setGroups({status.groups.data(), status.groups.size()});
  credentials.setInheritable(status.cap_inheritable);
  credentials.setPermitted(status.cap_permitted);
  credentials.setEffective(status.cap_effective);
  credentials.setBounding(status.cap_bounding);
  credentials.setAmbient(status.cap_ambient);
  credentials.setSecurebits(securebits);
}

namespace {

void fill_segments(tracee::Stub& stub, image::schema::Process::Builder process) {
  const std::vector<std::byte> table = tracee::read_segments(stub);
  process.setSegments(
      ::capnp::Data::Reader(reinterpret_cast<const kj::byte*>(table.data()), table.size()));
}

}  // namespace

void Capture::write_process(image::RecordSink& sink) {
  OwnAnswers own = ask(stub_);
  pid_t pid = survey_.pid;
  if (own.machine.has_segments && !survey_.whole) {
    std::string process = fmt::format("process {} ({})", pid, survey_.status.name);
    throw Error(Code::kRefused, refuse(process, Reason::kSegments).text());
  }
  ::capnp::MallocMessageBuilder message;
  auto process = message.initRoot<image::schema::Process>();
  const kernel::Status& status = survey_.status;
  process.setPid(static_cast<std::uint32_t>(status.ns_tgids.back()));
  process.setPpid(static_cast<std::uint32_t>(survey_.stat.ppid));
  process.setPgid(static_cast<std::uint32_t>(status.ns_pgids.back()));
  process.setSid(static_cast<std::uint32_t>(status.ns_sids.back()));
  process.setComm(kernel::read_comm(pid, pid));
  if (survey_.executable) survey_.files.fill(*survey_.executable, process.initExe());
  fill_directories(pid, process);
  process.setUmask(status.umask);
  fill_limits(stub_, process);
  process.setOomScoreAdj(kernel::read_oom_score_adj(pid));
  process.setDumpable(static_cast<std::uint32_t>(own.dumpable));
  process.setPersonality(kernel::read_personality(pid));
  process.setNoNewPrivs(status.no_new_privs);
  process.setChildSubreaper(own.child_subreaper != 0);
  process.setKeepCaps(own.keep_caps != 0);
  process.setThpDisable(static_cast<std::uint32_t>(own.thp_disable));
  process.setCoredumpFilter(kernel::read_coredump_filter(pid));
  process.setXstatePermissions(own.machine.xstate_permissions);
  process.setMembarrier(own.membarrier);
  process.setMemoryMerge(own.memory_merge);
  process.setMdwe(own.mdwe);
  process.setStopped(settings_.stopped);
  if (own.machine.has_segments) fill_segments(stub_, process);
  process.setLockFuture(read_lock_of_the_future(stub_));
  fill_seccomp(process);
  fill_credentials(status, own.securebits, process.initCredentials());
  fill_layout(survey_, own.brk, process.initLayout());
  fill_vdso(survey_, process.initVdso());
  fill_clocks(pid, own, process.initClocks());
  monotonic_ = own.monotonic;
  fill_arguments(pid, process);
  process.setThreads(static_cast<std::uint32_t>(frozen_.threads().size()));
  process.setExitSignal(static_cast<std::uint32_t>(std::max(0, survey_.stat.exit_signal)));
  LibcIdentity libc = identify_libc(survey_);
  process.setLibcBuildId(::capnp::Data::Reader(
      reinterpret_cast<const kj::byte*>(libc.build_id.data()), libc.build_id.size()));
  process.setGlibc(libc.is_glibc);
  sink.write(image::RecordType::kProcess, message);
}

void Capture::write_metadata(image::RecordSink& sink, const std::function<void()>& on_part) {
  with_context("capturing the process", [&] { write_process(sink); });
  if (on_part) on_part();
  if (settings_.common_part) {
    with_context("capturing files", [&] { survey_.files.capture_contents(sink); });
  }
  with_context("capturing the memory map", [&] { write_mappings(sink); });
  with_context("capturing descriptors", [&] { write_files(sink); });
  with_context("capturing timers", [&] { write_timers(sink); });
  with_context("capturing signals", [&] { write_signals(sink); });
  if (on_part && frozen_.threads().size() > 1) on_part();
  with_context("capturing threads", [&] { write_threads(sink); });
}

}  // namespace telefork::capture
