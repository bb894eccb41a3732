#include "restore/tree_skeleton.h"

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <ctime>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/error.h"
#include "kernel/pid_space.h"
#include "kernel/procfs_state.h"
#include "kernel/procfs_task.h"
#include "restore/vma_rules.h"

namespace telefork::restore {
namespace {

using image::TreeStep;
using image::schema::Member;
using tracee::Result;
using tracee::SyscallProgram;

// As the one that made it sees it, and this process.
pid_t find_child(pid_t parent, pid_t wanted) {
  for (const pid_t child : kernel::list_children(parent)) {
    if (kernel::read_status(child).ns_pids.back() == wanted) return child;
  }
  throw Error(Code::kGone, fmt::format("process {} has ended at its birth", wanted));
}

// As a process sees them; 0: it does not.
struct Place {
  pid_t parent;
  pid_t group;
  pid_t session;
};

Place place_of(const Blank& blank) {
  const kernel::Status status = kernel::read_status(blank.pid());
  Place place{0, status.ns_pgids.back(), status.ns_sids.back()};
  if (status.ppid == 0) return place;
  const kernel::Status parent = kernel::read_status(status.ppid);
  if (parent.ns_pids.size() == status.ns_pids.size()) place.parent = parent.ns_pids.back();
  return place;
}

// The first of its signal-delivery stops is that of the signal which is to end it.
void die_by(tracee::TracedThread& thread, int signal) {
  if (::kill(thread.tid(), signal) != 0) throw_errno("ending a process that had ended");
  // No stop precedes this one's, and none is resumed from.
  tracee::WaitStatus status =
      signal == SIGKILL ? thread.wait() : thread.resume_until_stop(PTRACE_CONT);
  while (!status.ended()) {
    const bool delivery = status.kind() == tracee::WaitStatus::Kind::kSignalDelivery;
    if (delivery && status.signal() != signal) {
      throw Error(Code::kCorrupt, fmt::format("signal {} ends no process", signal));
    }
    status = thread.resume_until_stop(PTRACE_CONT, delivery ? signal : 0);
  }
}

bool ends_processes(int signal) {
  switch (signal) {
    case SIGCHLD:
    case SIGCONT:
    case SIGURG:
    case SIGWINCH:
    case SIGSTOP:
    case SIGTSTP:
    case SIGTTIN:
    case SIGTTOU:
      return false;
    default:
      return true;
  }
}

}  // namespace

TreeSkeleton::TreeSkeleton(Blank& first, image::schema::Tree::Reader tree, TreeParts& parts,
                           Found&& found)
    : tree_(tree), parts_(parts) {
  const std::uint32_t first_id = tree.getMembers()[0].getPid();
  nodes_[first_id].blank = &first;
  if (parts_.were_there) found_.insert(first_id);
  for (auto& [pid, blank] : found) {
    const auto id = static_cast<std::uint32_t>(pid);
    found_.insert(id);
    nodes_[id].blank = blank.get();
    nodes_[id].owned = std::move(blank);
  }
  found.clear();
}

void TreeSkeleton::give_up() {
  for (auto& [id, one] : nodes_) {
    try {
      if (one.stub) one.stub->remove();
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;
      one.stub->abandon();
    }
    one.stub.reset();
  }
  std::erase_if(nodes_, [&](const auto& entry) { return !found_.contains(entry.first); });
}

TreeSkeleton::Node& TreeSkeleton::node(std::uint32_t id) { return nodes_.at(id); }

tracee::Stub& TreeSkeleton::stub_of(std::uint32_t id) {
  Node& one = node(id);
  if (!one.stub) {
    one.stub = std::make_unique<tracee::Stub>(one.blank->thread(), one.blank->pid(),
                                              tracee::Stub::Options{});
  }
  return *one.stub;
}

std::unique_ptr<Blank> TreeSkeleton::take(pid_t pid) {
  auto found = nodes_.find(static_cast<std::uint32_t>(pid));
  if (found == nodes_.end() || !found->second.owned) {
    throw Error(Code::kCorrupt, fmt::format("process {} is not in the tree", pid));
  }
  return std::move(found->second.owned);
}

int TreeParts::SharedArea::flags() const {
  return MAP_SHARED | MAP_ANONYMOUS | (no_reserve ? MAP_NORESERVE : 0) |
         (huge_shift != 0 ? MAP_HUGETLB | huge_page_flags(huge_shift) : 0);
}

void TreeSkeleton::map_shared_memory() {
  SyscallProgram program;
  std::vector<Result> addresses;
  know_shared_memory();
  for (const auto& [id, area] : parts_.shared) {
    const std::string what =
        area.huge_shift != 0 ? huge_pages_name(area.huge_shift) : "shared memory";
    addresses.push_back(program.call("mapping " + what, SYS_mmap,
                                     {0, area.size, PROT_READ | PROT_WRITE, area.flags(), -1, 0}));
  }
  if (program.empty()) return;
  const tracee::ProgramRun run = stub_of(tree_.getMembers()[0].getPid()).run(program);
  auto address = addresses.begin();
  for (auto& [id, area] : parts_.shared) {
    area.address = RemotePtr(static_cast<std::uint64_t>(run.result(*address++)));
  }
}

// Of those that were there who needs it gets it later (Restorer::get_shared_memory).
void TreeSkeleton::know_shared_memory() {
  for (image::schema::SharedMemory::Reader memory : tree_.getShared()) {
    TreeParts::SharedArea& area = parts_.shared[memory.getId()];
    area.size = memory.getSize();
    area.no_reserve = memory.getNoReserve();
    area.huge_shift = memory.getHugeShift();
  }
}

// Whether somebody who was found is in it.
bool TreeSkeleton::is_there(std::uint32_t group_or_session) const {
  return std::any_of(found_.begin(), found_.end(), [&](std::uint32_t id) {
    const Place place = place_of(*nodes_.at(id).blank);
    return place.group == static_cast<pid_t>(group_or_session) ||
           place.session == static_cast<pid_t>(group_or_session);
  });
}

bool TreeSkeleton::is_in_place(const TreeStep& step) {
  if (needless_.contains(step.id)) return true;
  if (!found_.contains(step.id)) return false;
  const Place place = place_of(*node(step.id).blank);
  switch (step.kind) {
    case TreeStep::Kind::kMake:
    case TreeStep::Kind::kMakeSibling:
      return true;
    case TreeStep::Kind::kNewSession:
      return place.session == static_cast<pid_t>(step.id);
    case TreeStep::Kind::kNewGroup:
      return place.group == static_cast<pid_t>(step.id);
    case TreeStep::Kind::kJoinGroup:
      return place.group == static_cast<pid_t>(step.other);
    case TreeStep::Kind::kEnd:
      break;
  }
  return false;
}

// Whoever is made is born into it.
void TreeSkeleton::join_first() {
  const Member::Reader first = tree_.getMembers()[0];
  const pid_t group = place_of(*node(first.getPid()).blank).group;
  for (Member::Reader member : tree_.getMembers()) {
    if (member.getPgid() != first.getPgid()) continue;
    if (place_of(*node(member.getPid()).blank).group == group) continue;
    SyscallProgram program;
    program.call("joining the process group of the first", SYS_setpgid, {0, group});
    stub_of(member.getPid()).run(program);
  }
}

void TreeSkeleton::check_places() {
  const Member::Reader first = tree_.getMembers()[0];
  const Place of_first = place_of(*node(first.getPid()).blank);
  for (Member::Reader member : tree_.getMembers()) {
    if (member.getPid() == first.getPid()) continue;
    const Place place = place_of(*node(member.getPid()).blank);
    const pid_t group =
        member.getPgid() == first.getPgid() ? of_first.group : static_cast<pid_t>(member.getPgid());
    const pid_t session =
        member.getSid() == first.getSid() ? of_first.session : static_cast<pid_t>(member.getSid());
    const char* what = nullptr;
    if (place.session != session) what = "session";
    if (place.group != group) what = "process group";
    if (place.parent != static_cast<pid_t>(member.getPpid())) what = "parent";
    if (what == nullptr) continue;
    throw Error(Code::kRefused, fmt::format("process {}: its {} here is another one than there",
                                            member.getPid(), what));
  }
}

// Who was there already can come to share nothing any more.
void TreeSkeleton::know_sharers() {
  for (Member::Reader member : tree_.getMembers()) {
    const auto pid = static_cast<pid_t>(member.getPid());
    if (member.getSharesDescriptors()) parts_.with_parents_descriptors.insert(pid);
    if (member.getSharesDirectories()) parts_.with_parents_directories.insert(pid);
    if (!parts_.were_there || sharing_flags(member.getPid()) == 0) continue;
    throw Error(Code::kRefused,
                fmt::format("process {}: what it shares with its parent cannot be had here", pid));
  }
}

std::uint64_t TreeSkeleton::sharing_flags(std::uint32_t id) const {
  const auto pid = static_cast<pid_t>(id);
  std::uint64_t flags = 0;
  if (parts_.with_parents_descriptors.contains(pid)) flags |= CLONE_FILES;
  if (parts_.with_parents_directories.contains(pid)) flags |= CLONE_FS;
  return flags;
}

void TreeSkeleton::make(const std::function<void(tracee::Stub&)>& in_first) {
  const image::TreePlan plan = image::plan_tree(image::members_of(tree_));
  if (!plan.troubles.empty()) throw Error(Code::kCorrupt, "the tree cannot be made");
  know_sharers();
  in_first(stub_of(tree_.getMembers()[0].getPid()));
  if (parts_.were_there) {
    know_shared_memory();
  } else {
    map_shared_memory();
  }
  for (const std::uint32_t helper : plan.helpers) {
    if (is_there(helper)) needless_.insert(helper);
  }
  if (parts_.were_there) take_back_terminals();
  for (const TreeStep& step : plan.steps) {
    if (step.kind != TreeStep::Kind::kEnd && !is_in_place(step)) run(step);
  }
  if (parts_.were_there) {
    join_first();
    check_places();
  }
  settle_terminals();
  for (Member::Reader member : tree_.getMembers()) {
    if (member.getState() == Member::State::ENDED) end(member);
  }
  for (const TreeStep& step : plan.steps) {
    if (step.kind == TreeStep::Kind::kEnd && !is_in_place(step)) run(step);
  }
  for (auto& [id, one] : nodes_) {
    if (one.stub) one.stub->remove();
    one.stub.reset();
    parts_.pids[static_cast<pid_t>(id)] = one.blank->pid();
  }
  for (Member::Reader member : tree_.getMembers()) {
    const auto group = static_cast<pid_t>(member.getPgid());
    const bool of_first = group == static_cast<pid_t>(tree_.getMembers()[0].getPgid());
    parts_.groups[group] =
        of_first
            ? kernel::read_status(node(tree_.getMembers()[0].getPid()).blank->pid()).ns_pgids.back()
            : group;
    for (const std::uint32_t tid : member.getThreads()) {
      parts_.threads.insert(static_cast<pid_t>(tid));
    }
  }
}

void TreeSkeleton::run(const TreeStep& step) {
  SyscallProgram program;
  switch (step.kind) {
    case TreeStep::Kind::kMake:
    case TreeStep::Kind::kMakeSibling:
      return make_child(step);
    case TreeStep::Kind::kNewSession:
      program.call_expecting(fmt::format("beginning session {}", step.id), step.id, SYS_setsid, {});
      stub_of(step.id).run(program);
      return take_terminals_of(step.id);
    case TreeStep::Kind::kNewGroup:
      program.call(fmt::format("beginning process group {}", step.id), SYS_setpgid, {0, 0});
      break;
    case TreeStep::Kind::kJoinGroup:
      program.call(fmt::format("joining process group {}", step.other), SYS_setpgid,
                   {0, step.other});
      break;
    case TreeStep::Kind::kEnd:
      return end_helper(step);
  }
  stub_of(step.id).run(program);
}

void TreeSkeleton::make_child(const TreeStep& step) {
  const bool sibling = step.kind == TreeStep::Kind::kMakeSibling;
  if (needless_.contains(step.other)) {
    throw Error(Code::kRefused,
                fmt::format("process {} cannot be made in session {}, whose leader has ended",
                            step.id, step.other));
  }
  const std::uint32_t parent = sibling ? parents_.at(step.other) : step.other;
  // One that has become another user may not, whoever began it.
  const bool chooses = !parts_.were_there || kernel::may_choose_ids(node(step.other).blank->pid());
  tracee::Stub& stub = stub_of(step.other);
  SyscallProgram program;
  clone_args arguments{};
  arguments.flags = CLONE_PTRACE | (sibling ? CLONE_PARENT : 0) | sharing_flags(step.id);
  if (sibling && sharing_flags(step.id) != 0) {
    throw Error(
        Code::kCorrupt,
        fmt::format("process {} cannot share with a parent that does not make it", step.id));
  }
  arguments.exit_signal = sibling ? 0 : step.exit_signal;  // a sibling has its maker's
  const std::string what = fmt::format("making process {}", step.id);
  const auto wanted = static_cast<pid_t>(step.id);
  Result made;
  if (chooses) {
    arguments.set_tid_size = 1;
    const tracee::Data tid = program.object(wanted);
    const tracee::Data data = program.object(arguments);
    program.point(data + offsetof(clone_args, set_tid), tid);
    made = program.call(what, SYS_clone3, {data, sizeof(arguments)});
  } else {
    made = program.call(what, SYS_clone3, {program.object(arguments), sizeof(arguments)});
  }
  pid_t id = 0;
  {
    std::optional<kernel::NextId> next;
    if (!chooses) next.emplace(wanted);
    id = static_cast<pid_t>(stub.run(program).result(made));
  }
  std::unique_ptr<Blank> child = Blank::adopt(*node(step.other).blank, stub.original(),
                                              find_child(node(parent).blank->pid(), id), id);
  if (id != wanted) {
    child.reset();  // which kills it
    reap(parent, id);
    throw Error(Code::kFailed,
                fmt::format("{}: another process has come to have its id at this instant", what));
  }
  parents_[step.id] = parent;
  Node& one = nodes_[step.id];
  one.owned = std::move(child);
  one.blank = one.owned.get();
}

void TreeSkeleton::reap(std::uint32_t parent, pid_t child) {
  SyscallProgram program;
  program.call_expecting(fmt::format("waiting for process {}", child), child, SYS_wait4,
                         {child, 0, __WALL, 0});
  stub_of(parent).run(program);
}

// Its parent is told of its end by a signal, which it would find one day.
void TreeSkeleton::forget_child_signal(std::uint32_t parent) {
  SyscallProgram program;
  const std::uint64_t child = std::uint64_t{1} << (SIGCHLD - 1);
  program.call_any("forgetting a child's end", SYS_rt_sigtimedwait,
                   {program.object(child), 0, program.object(timespec{}), sizeof(child)});
  stub_of(parent).run(program);
}

void TreeSkeleton::end_helper(const TreeStep& step) {
  if (node(step.id).stub) node(step.id).stub->abandon();
  nodes_.erase(step.id);  // which kills it
  reap(step.other, static_cast<pid_t>(step.id));
  if (step.exit_signal != 0) forget_child_signal(step.other);
}

void TreeSkeleton::end(Member::Reader member) {
  const int signal = static_cast<int>(member.getStatus() & 0x7f);
  if (signal != 0 && !ends_processes(signal)) {
    throw Error(Code::kCorrupt, fmt::format("signal {} ends no process", signal));
  }
  stub_of(member.getPpid());  // in which signals wait
  tracee::Stub& stub = stub_of(member.getPid());
  SyscallProgram program;
  program.call("restoring its name", SYS_prctl,
               {PR_SET_NAME, program.text(std::string(member.getComm()).substr(0, 15)), 0, 0, 0});
  // Too small for a core dump, by a file or by a program (core(5)).
  program.call("having no core dumped", SYS_prlimit64,
               {0, RLIMIT_CORE, program.object(rlimit{1, 1}), 0});
  // A plain user can be nobody else, and need not.
  program.call_any("becoming its group", SYS_setresgid,
                   {member.getGid(), member.getGid(), member.getGid()});
  program.call_any("becoming its user", SYS_setresuid,
                   {member.getUid(), member.getUid(), member.getUid()});
  stub.run(program);
  Node& one = node(member.getPid());
  if (signal == 0) {
    SyscallProgram last;
    last.call("ending", SYS_exit_group, {member.getStatus() >> 8});
    try {
      stub.run(last);
      throw Error(Code::kFailed, fmt::format("process {} does not end", member.getPid()));
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;
    }
  } else {
    stub.remove();
    die_by(one.blank->thread(), signal);
  }
  one.stub.reset();
  one.blank->release();  // it is its parent's to wait for
  if (member.getExitSignal() != 0) forget_child_signal(member.getPpid());
}

}  // namespace telefork::restore
