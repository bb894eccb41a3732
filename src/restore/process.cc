// What a process has once.
#include <linux/capability.h>
#include <linux/securebits.h>
#include <array>
#include <cerrno>
#include <csignal>
#include <span>
#include <string>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/abi.h"
#include "kernel/procfs_state.h"
#include "kernel/procfs_task.h"
#include "restore/restorer.h"
#include "restore/steps.h"
#include "tracee/machine_state.h"

namespace telefork::restore {
namespace {

using tracee::SyscallProgram;

// struct __user_cap_data_struct, two of them: version 3 of capset(2).
struct CapabilitySets {
  __user_cap_data_struct low;
  __user_cap_data_struct high;
};

CapabilitySets split(std::uint64_t effective, std::uint64_t permitted, std::uint64_t inheritable) {
  auto half = [&](int shift) {
    return __user_cap_data_struct{static_cast<std::uint32_t>(effective >> shift),
                                  static_cast<std::uint32_t>(permitted >> shift),
                                  static_cast<std::uint32_t>(inheritable >> shift)};
  };
  return {half(0), half(32)};
}

bool same_ids(image::schema::Credentials::Reader wanted, const kernel::Status& have) {
  for (unsigned i = 0; i < 4 && i < wanted.getUids().size() && i < wanted.getGids().size(); ++i) {
    if (wanted.getUids()[i] != have.uids[i] || wanted.getGids()[i] != have.gids[i]) return false;
  }
  return true;
}

std::uint64_t bit(unsigned capability) { return std::uint64_t{1} << capability; }

// Other than by keepcaps, which is of no consequence here. A keeper is not.
bool is_secured(image::schema::Credentials::Reader wanted) {
  return (wanted.getSecurebits() & ~unsigned{SECBIT_KEEP_CAPS}) != 0;
}

void set_capabilities(SyscallProgram& program, const CapabilitySets& sets) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  program.call("restoring capabilities", SYS_capset,
               {program.object(header), program.object(sets)});
}

// `spare`: it keeps these for now. In this order: to change a user takes them from the effective
// set, a bounding set forbids to inherit, securebits forbid to raise, and the last step takes the
// right to all that.
void add_capabilities(SyscallProgram& program, image::schema::Credentials::Reader wanted,
                      const kernel::Status& have, bool may_bind, std::uint64_t spare) {
  // What this user has not got cannot be given.
  const std::uint64_t permitted = wanted.getPermitted() & have.cap_permitted;
  const std::uint64_t inheritable = wanted.getInheritable() & have.cap_permitted;
  set_capabilities(program, split(have.cap_permitted, have.cap_permitted, inheritable));
  program.call("clearing ambient capabilities", SYS_prctl,
               {PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0});
  for (unsigned capability = 0; capability < 64; ++capability) {
    if (wanted.getAmbient() & permitted & inheritable & bit(capability)) {
      program.call("restoring ambient capabilities", SYS_prctl,
                   {PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0});
    }
    if (may_bind && (have.cap_bounding & ~wanted.getBounding() & bit(capability)) != 0) {
      program.call("restoring the bounding set", SYS_prctl, {PR_CAPBSET_DROP, capability, 0, 0, 0});
    }
  }
  if (may_bind && is_secured(wanted)) {
    program.call("restoring securebits", SYS_prctl,
                 {PR_SET_SECUREBITS, wanted.getSecurebits(), 0, 0, 0});
  }
  set_capabilities(
      program, split((wanted.getEffective() & permitted) | spare, permitted | spare, inheritable));
}

bool same_groups(image::schema::Credentials::Reader wanted, const kernel::Status& have) {
  auto groups = wanted.getGroups();
  if (groups.size() != have.groups.size()) return false;
  for (unsigned i = 0; i < groups.size(); ++i) {
    if (groups[i] != have.groups[i]) return false;
  }
  return true;
}

void add_groups(SyscallProgram& program, image::schema::Credentials::Reader wanted) {
  std::vector<std::uint32_t> groups;
  for (std::uint32_t group : wanted.getGroups()) groups.push_back(group);
  program.call("restoring the groups", SYS_setgroups,
               {groups.size(), program.bytes(std::as_bytes(std::span(groups)))});
}

// With all capabilities that it has.
void add_ids(SyscallProgram& program, image::schema::Credentials::Reader wanted, bool keep_caps) {
  auto uids = wanted.getUids();
  auto gids = wanted.getGids();
  if (uids.size() != 4 || gids.size() != 4) throw Error(Code::kCorrupt, "credentials lack ids");
  std::string who = fmt::format("becoming user {} with group {}", uids[0], gids[0]);
  program.call("keeping capabilities", SYS_prctl, {PR_SET_KEEPCAPS, 1, 0, 0, 0});
  program.call(who, SYS_setresgid, {gids[0], gids[1], gids[2]});
  program.call(who, SYS_setresuid, {uids[0], uids[1], uids[2]});
  program.call_any(who, SYS_setfsgid, {gids[3]});
  program.call_any(who, SYS_setfsuid, {uids[3]});
  program.call("restoring keepcaps", SYS_prctl, {PR_SET_KEEPCAPS, keep_caps ? 1 : 0, 0, 0, 0});
}

}  // namespace

// PR_SET_MM_MAP: the only form of PR_SET_MM that a plain user may use. The link to the program file
// is set by the same call, but that is for root and CAP_CHECKPOINT_RESTORE only.
void Restorer::restore_layout() {
  if (try_set_layout(-1) < 0) {
    throw_errno("setting the memory layout (PR_SET_MM_MAP)", EINVAL);
  }
  if (process().getExe().getPath().size() == 0) return;
  try {
    UniqueFd exe = parts_->open_files.open_for_mapping(process().getExe(), parts_->contents, false);
    int given[] = {exe.get()};
    int number = blank_->give_fds(given).front();
    if (try_set_layout(number) < 0 && settings_.tells_of_exe) {
      warn("/proc/self/exe is telefork-blank: to restore it takes CAP_CHECKPOINT_RESTORE");
    }
    SyscallProgram program;
    program.call("closing the program file", SYS_close, {number});
    blank_->stub().run(program);
  } catch (const Error& error) {
    if (error.code() != Code::kRefused && error.error() == 0) throw;
    warn("/proc/self/exe is telefork-blank: " + error.text());
  }
}

// The result of the call; `exe_fd` is the program file's number in the guest, or -1.
std::int64_t Restorer::try_set_layout(int exe_fd) {
  auto layout = process().getLayout();
  auto auxv = layout.getAuxv();
  SyscallProgram program;
  tracee::Data auxv_data =
      program.bytes(std::span(reinterpret_cast<const std::byte*>(auxv.begin()), auxv.size()));
  kernel::PrctlMmMap map{};
  map.start_code = layout.getStartCode();
  map.end_code = layout.getEndCode();
  map.start_data = layout.getStartData();
  map.end_data = layout.getEndData();
  map.start_brk = layout.getStartBrk();
  map.brk = layout.getBrk();
  map.start_stack = layout.getStartStack();
  map.arg_start = layout.getArgStart();
  map.arg_end = layout.getArgEnd();
  map.env_start = layout.getEnvStart();
  map.env_end = layout.getEnvEnd();
  map.auxv_size = static_cast<std::uint32_t>(auxv.size());
  map.exe_fd = static_cast<std::uint32_t>(exe_fd);
  tracee::Data data = program.object(map);
  program.point(data + offsetof(kernel::PrctlMmMap, auxv), auxv_data);
  tracee::Result result =
      program.call_any("setting the memory layout", SYS_prctl,
                       {kernel::kPrSetMm, kernel::kPrSetMmMap, data, sizeof(map), 0});
  return blank_->stub().run(program).result(result);
}

void Restorer::restore_settings() {
  auto p = process();
  enter_directories();
  SyscallProgram program;
  add_process_settings(p, program);
  add_permissions(p, program);
  tracee::add_segments(std::as_bytes(std::span(p.getSegments().begin(), p.getSegments().size())),
                       program);
  blank_->stub().run(program);

  kernel::write_coredump_filter(blank_->pid(), p.getCoredumpFilter());
  int adjustment = p.getOomScoreAdj();
  if (kernel::read_oom_score_adj(blank_->pid()) != adjustment) {
    try {
      kernel::write_oom_score_adj(blank_->pid(), adjustment);
    } catch (const Error& error) {
      if (error.error() != EACCES) throw;
      warn(fmt::format("its oom_score_adj is not {}: lowering it takes CAP_SYS_RESOURCE",
                       adjustment));
    }
  }
}

bool Restorer::has_same_user() const {
  return same_ids(process().getCredentials(), kernel::read_status(blank_->pid()));
}

void Restorer::restore_credentials() {
  auto wanted = process().getCredentials();
  kernel::Status have = kernel::read_status(blank_->pid());
  SyscallProgram program;
  if (process().getNoNewPrivs()) {
    program.call("restoring no_new_privs", SYS_prctl, {PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0});
  }
  bool ids = !same_ids(wanted, have);
  bool capabilities = wanted.getEffective() != have.cap_effective ||
                      wanted.getPermitted() != have.cap_permitted ||
                      wanted.getInheritable() != have.cap_inheritable ||
                      wanted.getBounding() != have.cap_bounding ||
                      wanted.getAmbient() != have.cap_ambient || is_secured(wanted);
  if (have.uids[1] == 0 && (ids || !same_groups(wanted, have))) {
    add_groups(program, wanted);
  } else if (!same_groups(wanted, have)) {
    std::vector<std::uint32_t> groups;
    for (std::uint32_t group : wanted.getGroups()) groups.push_back(group);
    warn(fmt::format("it has the groups [{}], and had [{}] where it came from",
                     fmt::join(have.groups, " "), fmt::join(groups, " ")));
  }
  if (ids) add_ids(program, wanted, process().getKeepCaps());
  if (ids || capabilities) {
    if (wanted.getPermitted() & ~have.cap_permitted) {
      warn("it has fewer capabilities than where it came from");
    }
    if (wanted.getBounding() & ~have.cap_bounding) {
      warn("it may gain fewer capabilities than where it came from");
    }
    bool may_bind = (have.cap_permitted & bit(CAP_SETPCAP)) != 0;
    if (!may_bind && (is_secured(wanted) || (have.cap_bounding & ~wanted.getBounding()) != 0)) {
      warn(
          "it may gain more capabilities than where it came from: to restore its securebits and "
          "bounding set takes CAP_SETPCAP");
    }
    // To choose a thread's id takes it, and to give it another root directory.
    const std::uint64_t chooses = bit(kernel::kCapCheckpointRestore) | bit(CAP_SYS_ADMIN) |
                                  (some_thread_has_own_root() ? bit(CAP_SYS_CHROOT) : 0);
    std::uint64_t spare = threads_.size() > 1 ? have.cap_permitted & chooses : 0;
    permitted_before_ = have.cap_permitted;
    add_capabilities(program, wanted, have, may_bind, spare);
  }
  // After the ids, which reset it.
  add_dumpable(program);
  blank_->stub().run(program);
}

// Of a thread that is another user than the first, as which it begins. What it becomes decides
// whether the process may be looked at (PR_SET_DUMPABLE), which is the first one's to restore.
void Restorer::add_thread_credentials(image::schema::Credentials::Reader wanted,
                                      SyscallProgram& program) const {
  const kernel::Status have = kernel::read_status(blank_->pid());
  add_groups(program, wanted);
  add_ids(program, wanted, process().getKeepCaps());
  add_capabilities(program, wanted, have, true, 0);
}

void Restorer::add_dumpable(SyscallProgram& program) const {
  // The value 2 is the kernel's own doing.
  program.call("restoring dumpable", SYS_prctl,
               {PR_SET_DUMPABLE, process().getDumpable() == 0 ? 0 : 1, 0, 0, 0});
}

// Of a thread, when all of them have been made.
void Restorer::drop_spare_capabilities(SyscallProgram& program) const {
  if (!permitted_before_ || threads_.size() == 1) return;
  auto wanted = process().getCredentials();
  std::uint64_t permitted = wanted.getPermitted() & *permitted_before_;
  set_capabilities(program, split(wanted.getEffective() & permitted, permitted,
                                  wanted.getInheritable() & *permitted_before_));
}

namespace {

// As getrlimit(2) has them, by their numbers in asm-generic/resource.h.
std::string limit_name(unsigned resource) {
  static constexpr std::array kNames = {
      "CPU",     "FSIZE", "DATA",  "STACK",      "CORE",     "RSS",  "NPROC",  "NOFILE",
      "MEMLOCK", "AS",    "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"};
  static_assert(RLIMIT_NOFILE == 7 && RLIMIT_AS == 9 && RLIMIT_RTTIME == 15);
  if (resource < kNames.size()) return fmt::format("RLIMIT_{}", kNames[resource]);
  return std::to_string(resource);
}

// From outside it takes CAP_SYS_RESOURCE where the guest has become another user; then the guest
// itself does what it may. 0 or an errno.
int change_limit(Blank& blank, unsigned resource, const rlimit& limit) {
  auto kind = static_cast<__rlimit_resource>(resource);
  if (::prlimit(blank.pid(), kind, &limit, nullptr) == 0) return 0;
  if (errno != EPERM) throw_errno("restoring limit " + limit_name(resource));
  SyscallProgram program;
  tracee::Result result =
      program.call_any("restoring a limit", SYS_prlimit64, {0, resource, program.object(limit), 0});
  return -static_cast<int>(blank.stub().run(program).result(result));
}

}  // namespace

void Restorer::restore_limits() {
  SyscallProgram program;
  std::vector<tracee::Data> answers;
  for (image::schema::Limit::Reader wanted : process().getLimits()) {
    answers.push_back(program.buffer(sizeof(rlimit)));
    program.call("reading limit " + limit_name(wanted.getResource()), SYS_prlimit64,
                 {0, wanted.getResource(), 0, answers.back()});
  }
  tracee::ProgramRun run = blank_->stub().run(program);
  auto answer = answers.begin();
  for (image::schema::Limit::Reader wanted : process().getLimits()) {
    auto have = run.object<rlimit>(*answer++);
    rlimit limit{wanted.getSoft(), wanted.getHard()};
    if (have.rlim_cur == limit.rlim_cur && have.rlim_max == limit.rlim_max) continue;
    if (change_limit(*blank_, wanted.getResource(), limit) == 0) continue;
    // Raising a hard limit takes CAP_SYS_RESOURCE.
    limit = {std::min<rlim_t>(limit.rlim_cur, have.rlim_max),
             std::min(limit.rlim_max, have.rlim_max)};
    if (change_limit(*blank_, wanted.getResource(), limit) != 0) {
      warn(fmt::format("its limit {} could not be restored", limit_name(wanted.getResource())));
    } else {
      warn(fmt::format("its hard limit {} is {}, not {}: raising it takes CAP_SYS_RESOURCE",
                       limit_name(wanted.getResource()), limit.rlim_max, wanted.getHard()));
    }
  }
}

}  // namespace telefork::restore
