// The controlling terminals of a tree's sessions. Whoever is born into a session has its terminal,
// and no other way leads there but for who leads it.
#include <algorithm>
#include <csignal>
#include <ctime>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "restore/outside.h"
#include "restore/tree_skeleton.h"

namespace telefork::restore {

using image::schema::Member;
using tracee::Result;
using tracee::SyscallProgram;

bool TreeSkeleton::has_terminal(std::uint32_t id) {
  return kernel::read_stat(node(id).blank->pid()).tty_nr != 0;
}

// Of sessions that are there already, before anybody is made. They have what they had when their
// processes left, and kept it: who was born with that could get no other one.
void TreeSkeleton::take_back_terminals() {
  std::set<pid_t> there;
  for (Terminal terminal : tree_.getTerminals()) {
    const std::uint32_t session = terminal.getSession();
    there.insert(static_cast<pid_t>(session));
    if (!found_.contains(session)) continue;
    const kernel::Status leader = kernel::read_status(node(session).blank->pid());
    if (leader.ns_sids.back() == static_cast<pid_t>(session)) take_back(terminal);
  }
  if (parts_.terminals == nullptr) return;
  for (const auto& [pid, master] : *parts_.terminals) {
    const auto session = static_cast<std::uint32_t>(pid);
    if (there.contains(pid) || !found_.contains(session) || !has_terminal(session)) continue;
    drop_terminal(session, master);
  }
}

void TreeSkeleton::take_back(Terminal terminal) {
  const std::uint32_t session = terminal.getSession();
  if (!has_terminal(session)) return take_terminal(terminal);
  static const SessionTerminals kNone;
  const SessionTerminals& terminals = parts_.terminals == nullptr ? kNone : *parts_.terminals;
  auto own = terminals.find(static_cast<pid_t>(session));
  if (own == terminals.end()) {
    throw Error(Code::kRefused,
                fmt::format("session {} has another terminal here than there", session));
  }
  // Whom another size matters to was told there.
  static constexpr int kOfSize[] = {SIGWINCH};
  without_signals(own->second, kOfSize, [&] { parts_.ptys.take_back(terminal, own->second); });
}

// It was hung up there, or given up, and those in its foreground were told.
void TreeSkeleton::drop_terminal(std::uint32_t session, const UniqueFd& master) {
  static constexpr int kOfEnd[] = {SIGHUP, SIGCONT};  // disassociate_ctty() of the kernel
  without_signals(master, kOfEnd, [&] { run_on_terminal(session, TIOCNOTTY, {}); });
}

// What the kernel sends to those in its foreground over that they never see. One of these that was
// pending before stays so; another one that comes in this very instant is lost.
void TreeSkeleton::without_signals(const UniqueFd& master, std::span<const int> signals,
                                   const std::function<void()>& act) {
  auto bit = [](int signal) { return std::uint64_t{1} << (signal - 1); };
  pid_t foreground = 0;
  if (::ioctl(master.get(), TIOCGPGRP, &foreground) != 0) {
    throw_errno("asking for the foreground group of a terminal");
  }
  std::map<std::uint32_t, std::uint64_t> pending;
  for (const std::uint32_t id : found_) {
    const kernel::Status status = kernel::read_status(node(id).blank->pid());
    if (status.ns_pgids.front() == foreground) pending[id] = status.shared_pending;
  }
  act();
  for (const auto& [id, before] : pending) {
    SyscallProgram program;
    for (const int signal : signals) {
      if ((before & bit(signal)) != 0) continue;
      program.call_any(
          "forgetting a terminal's signal", SYS_rt_sigtimedwait,
          {program.object(bit(signal)), 0, program.object(timespec{}), sizeof(std::uint64_t)});
    }
    if (!program.empty()) stub_of(id).run(program);
  }
}

void TreeSkeleton::take_terminals_of(std::uint32_t session) {
  for (Terminal terminal : tree_.getTerminals()) {
    if (terminal.getSession() == session) take_terminal(terminal);
  }
}

// A session that was there keeps it too if nothing comes of all this.
void TreeSkeleton::take_terminal(Terminal terminal) {
  const std::uint32_t session = terminal.getSession();
  const std::string& path = parts_.ptys.begin(terminal);
  tracee::Stub& stub = stub_of(session);
  const Outside outside(*node(session).blank);
  SyscallProgram program;
  const Result slave =
      program.call("opening its terminal", SYS_openat,
                   {outside.base(), program.text(outside.path_of(path)), O_RDWR | O_NOCTTY});
  program.call("taking its terminal", SYS_ioctl, {slave, TIOCSCTTY, 0});
  program.call("closing its terminal", SYS_close, {slave});
  outside.add_end(program);
  stub.run(program);
  if (!found_.contains(session) || parts_.terminals == nullptr) return;
  const UniqueFd& master = parts_.ptys.master_of(terminal);
  (*parts_.terminals)[static_cast<pid_t>(session)] = master.duplicate();
}

void TreeSkeleton::run_on_terminal(std::uint32_t id, unsigned long request,
                                   std::optional<pid_t> argument) {
  tracee::Stub& stub = stub_of(id);
  const Outside outside(*node(id).blank);
  SyscallProgram program;
  const Result terminal = program.call(
      "opening its terminal", SYS_openat,
      {outside.base(), program.text(outside.path_of("/dev/tty")), O_RDWR | O_NOCTTY | O_NONBLOCK});
  if (argument) {
    program.call("setting its terminal", SYS_ioctl, {terminal, request, program.object(*argument)});
  } else {
    program.call("setting its terminal", SYS_ioctl, {terminal, request, 0});
  }
  program.call("closing its terminal", SYS_close, {terminal});
  outside.add_end(program);
  stub.run(program);
}

// When all groups are there, and whoever is to lack what it was born with.
void TreeSkeleton::settle_terminals() {
  for (Terminal terminal : tree_.getTerminals()) {
    run_on_terminal(terminal.getSession(), TIOCSPGRP, static_cast<pid_t>(terminal.getForeground()));
  }
  for (Member::Reader member : tree_.getMembers()) {
    if (!member.getNoTerminal() || member.getState() == Member::State::ENDED) continue;
    if (has_terminal(member.getPid())) run_on_terminal(member.getPid(), TIOCNOTTY, {});
  }
}

}  // namespace telefork::restore
