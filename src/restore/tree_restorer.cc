#include "restore/tree_restorer.h"

#include <algorithm>
#include <csignal>
#include <ctime>
#include <functional>
#include <iterator>
#include <utility>

#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/error.h"
#include "restore/siginfo.h"

namespace telefork::restore {
namespace {

using image::RecordType;
using image::schema::Member;
using tracee::SyscallProgram;

bool has_pending(image::schema::Signals::Reader signals, int signal) {
  for (::capnp::Data::Reader bytes : signals.getPending()) {
    if (decode_siginfo(bytes).si_signo == signal) return true;
  }
  return false;
}

// One that was continued when it stood still already has that before it.
void stop(Restorer& member) {
  if (!has_pending(member.signals(), SIGCONT)) member.stop();
}

// What its parent was told already it is not told again: neither by a signal nor by wait(2).
void hide_stop(Restorer& parent, pid_t child, bool untold) {
  SyscallProgram program;
  if (!has_pending(parent.signals(), SIGCHLD)) {
    const std::uint64_t signals = std::uint64_t{1} << (SIGCHLD - 1);
    program.call_any("forgetting a child's stop", SYS_rt_sigtimedwait,
                     {program.object(signals), 0, program.object(timespec{}), sizeof(signals)});
  }
  if (!untold) {
    program.call("hearing of a child's stop", SYS_waitid,
                 {P_PID, child, 0, WSTOPPED | WNOHANG | __WALL, 0});
  }
  if (!program.empty()) parent.stub().run(program);
}

}  // namespace

TreeRestorer::TreeRestorer(RestoreSettings settings)
    : settings_(std::move(settings)), parts_(std::make_shared<TreeParts>(settings_.live)) {
  if (settings_.blank.want_pid == 0) return;
  members_.push_back(std::make_unique<Restorer>(std::move(settings_), parts_));
  made_early_ = true;
}

// Children first: each is waited for by its tracer, and left to its parent.
TreeRestorer::~TreeRestorer() {
  skeleton_.reset();
  while (!members_.empty()) members_.pop_back();
}

void TreeRestorer::set_streams(UniqueFd (&&streams)[3]) {
  if (made_early_) return first().set_streams(std::move(streams));
  std::move(std::begin(streams), std::end(streams), settings_.streams.begin());
}

void TreeRestorer::begin_tree(image::Record tree) {
  tree_ = std::move(tree);
  parts_->is_tree = true;
  if (!std::exchange(made_early_, false)) return;
  settings_ = first().give_up();
  members_.clear();
}

bool TreeRestorer::take(image::RecordSource& source) {
  image::Record record = source.next();
  if (record.type() == RecordType::kTree) {
    begin_tree(std::move(record));
    return true;
  }
  if (record.type() == RecordType::kProcess && !std::exchange(made_early_, false)) {
    begin_member(std::move(record), source);
    return true;
  }
  if (members_.empty()) {
    // The header, which nobody needs here.
    if (record.type() == RecordType::kHeader) return true;
    throw Error(Code::kCorrupt, "the image has no process");
  }
  return members_.back()->take(std::move(record), source);
}

std::vector<pid_t> TreeRestorer::all_ids() const {
  std::vector<pid_t> ids;
  for (Member::Reader member : tree().getMembers()) {
    const auto pid = static_cast<pid_t>(member.getPid());
    if (!found_.contains(pid)) ids.push_back(pid);
    for (const std::uint32_t tid : member.getThreads()) {
      if (tid != member.getPid()) ids.push_back(static_cast<pid_t>(tid));
    }
  }
  if (parts_->were_there) return ids;  // what leads their groups may be there
  for (const std::uint32_t id : image::plan_tree(image::members_of(tree())).helpers) {
    ids.push_back(static_cast<pid_t>(id));
  }
  return ids;
}

RestoreSettings TreeRestorer::settings_of_later(pid_t pid) const {
  const RestoreSettings& first = members_.front()->settings();
  RestoreSettings settings;
  settings.live = first.live;
  settings.timers_by_id = first.timers_by_id;
  settings.moves_pages = first.moves_pages;
  settings.tells_of_exe = first.tells_of_exe;
  settings.blank.pid_required = true;
  settings.find_blank = first.find_blank;
  settings.own_clocks = first.own_clocks;
  settings.bulk_fd = first.bulk_fd;
  if (first.follow) {
    settings.follow = [follow = first.follow,
                       process = static_cast<std::uint32_t>(members_.size())](LazyMemory lazy) {
      lazy.process = process;
      follow(std::move(lazy));
    };
  }
  settings.warn = [tell = first.warn, pid](const std::string& text) {
    if (tell) tell(fmt::format("process {}: {}", pid, text));
  };
  return settings;
}

void TreeRestorer::begin_member(image::Record process, image::RecordSource& source) {
  const auto pid = static_cast<pid_t>(process.get<image::schema::Process>().getPid());
  const bool first = members_.empty();
  if (first && parts_->is_tree) {
    take_found();
    settings_.tree_ids = all_ids();
  }
  RestoreSettings settings = first ? std::move(settings_) : settings_of_later(pid);
  members_.push_back(std::make_unique<Restorer>(std::move(settings), parts_));
  members_.back()->take(std::move(process), source);
  if (!parts_->is_tree) return;
  if (first) {
    make_skeleton();
  } else {
    members_.back()->adopt(skeleton_->take(pid));
  }
}

// Children first: their parents take no notice of what becomes of them as long as they are what
// they were.
void TreeRestorer::take_found() {
  if (!settings_.find_blank) return;
  parts_->were_there = true;
  parts_->terminals = settings_.terminals;
  is_found_ = settings_.is_found;
  const auto members = tree().getMembers();
  for (unsigned i = members.size() - 1; i > 0; --i) {
    const auto pid = static_cast<pid_t>(members[i].getPid());
    if (!settings_.is_found(pid)) continue;
    found_.emplace(pid, std::make_unique<Blank>(settings_.find_blank(pid)));
  }
}

void TreeRestorer::make_skeleton() {
  Restorer& first = *members_.front();
  for (Member::Reader member : tree().getMembers()) {
    parts_->pids[static_cast<pid_t>(member.getPid())] = 0;  // until it is there
  }
  Blank& blank = first.start_first();
  with_context("making the guest's processes", [&] {
    skeleton_ = std::make_unique<TreeSkeleton>(blank, tree(), *parts_, std::move(found_));
    skeleton_->make([&](tracee::Stub& stub) { first.set_clocks(stub); });
  });
}

void TreeRestorer::finish() {
  if (members_.empty()) throw Error(Code::kCorrupt, "the image has no process");
  if (!parts_->is_tree) {
    first().finish();
    if (first().was_stopped()) with_context("stopping the process", [&] { stop(first()); });
    return;
  }
  std::vector<Restorer*> all;
  for (const auto& member : members_) all.push_back(member.get());
  Restorer::share_descriptors(all);
  auto with_each = [&all](const std::function<void(Restorer&)>& act) {
    for (Restorer* member : all) {
      with_context(fmt::format("process {}", member->guest_pid()), [&] { act(*member); });
    }
  };
  // Who shares its descriptors with another one has numbers there of its own until then.
  with_each([](Restorer& member) { member.finish_memory(); });
  with_each([](Restorer& member) { member.finish(); });
  all.front()->settle_common_part();
  with_context("stopping processes", [&] { stop_those_that_were(); });
}

void TreeRestorer::stop_those_that_were() {
  auto find = [this](std::uint32_t pid) -> Restorer& {
    auto found = std::find_if(members_.begin(), members_.end(), [pid](const auto& member) {
      return member->guest_pid() == static_cast<pid_t>(pid);
    });
    if (found == members_.end()) throw Error(Code::kCorrupt, "a stopped process is not there");
    return **found;
  };
  for (Member::Reader member : tree().getMembers()) {
    if (member.getState() != Member::State::STOPPED) continue;
    stop(find(member.getPid()));
    if (member.getPid() == tree().getMembers()[0].getPid()) continue;
    hide_stop(find(member.getPpid()), static_cast<pid_t>(member.getPid()), member.getStopUntold());
  }
}

pid_t TreeRestorer::release() {
  for (const auto& member : members_) member->become_guest();
  pid_t pid = 0;
  for (auto member = members_.rbegin(); member != members_.rend(); ++member) {
    pid = (*member)->let_go();
  }
  return pid;
}

std::vector<pid_t> TreeRestorer::release_found() {
  std::vector<pid_t> killed;
  auto unless_killed = [&](Restorer& member, const std::function<void()>& act) {
    const pid_t pid = member.guest_pid();
    if (std::find(killed.begin(), killed.end(), pid) != killed.end()) return;
    try {
      act();
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;
      killed.push_back(pid);
    }
  };
  for (const auto& member : members_) {
    unless_killed(*member, [&] { member->become_guest(); });
  }
  for (auto member = members_.rbegin(); member != members_.rend(); ++member) {
    unless_killed(**member, [&] { (*member)->let_go(); });
  }
  return killed;
}

void TreeRestorer::end_made() {
  if (!is_found_) return;
  if (skeleton_) skeleton_->give_up();
  for (auto member = members_.rbegin(); member != members_.rend(); ++member) {
    const pid_t pid = (*member)->guest_pid();
    if (pid != 0 && !is_found_(pid)) member->reset();
  }
  std::erase(members_, nullptr);
}

tracee::TracedThread TreeRestorer::become(pid_t pid, const MakeProgram& make) {
  for (const auto& member : members_) {
    if (member->guest_pid() == pid) return member->become(make);
  }
  if (auto found = found_.find(pid); found != found_.end()) {
    tracee::TracedThread thread = restore::become(*found->second, make, {});
    found_.erase(found);
    return thread;
  }
  if (!skeleton_) throw Error(Code::kGone, fmt::format("process {} has ended", pid));
  found_.emplace(pid, skeleton_->take(pid));
  return become(pid, make);
}

Restorer& TreeRestorer::of(pid_t guest_pid) {
  auto found = std::find_if(members_.begin(), members_.end(), [guest_pid](const auto& member) {
    return member->guest_pid() == guest_pid;
  });
  if (found == members_.end()) {
    throw Error(Code::kGone, fmt::format("process {} has ended", guest_pid));
  }
  return **found;
}

std::vector<TreeRestorer::Watched> TreeRestorer::release_watched() {
  for (const auto& member : members_) member->become_guest();
  std::vector<Watched> watched;
  for (auto member = members_.rbegin(); member != std::prev(members_.rend()); ++member) {
    const pid_t guest_pid = (*member)->guest_pid();
    watched.push_back({guest_pid, (*member)->let_go_watched()});
  }
  first().let_go();
  return watched;
}

std::map<pid_t, pid_t> TreeRestorer::groups_before() const {
  std::map<pid_t, pid_t> groups;
  if (!tree_) return groups;
  for (Member::Reader member : tree().getMembers()) {
    groups[static_cast<pid_t>(member.getPid())] = static_cast<pid_t>(member.getPgid());
  }
  return groups;
}

pid_t TreeRestorer::guest_pid() const {
  return members_.empty() ? 0 : members_.front()->guest_pid();
}

std::optional<PidNamespace> TreeRestorer::take_namespace() {
  return members_.front()->take_namespace();
}

}  // namespace telefork::restore
