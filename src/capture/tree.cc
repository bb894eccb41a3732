#include "capture/tree.h"

#include <algorithm>
#include <csignal>
#include <map>
#include <set>
#include <string>

#include <capnp/message.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/removed_directory.h"
#include "capture/root_directory.h"
#include "capture/session_terminals.h"
#include "image/tree_plan.h"
#include "kernel/procfs_file.h"
#include "kernel/procfs_task.h"
#include "tracee/snapshot.h"

namespace telefork::capture {
namespace {

using image::schema::Member;
using image::schema::Vma;

std::string name_of(pid_t pid, const std::string& comm) {
  return fmt::format("process {} ({})", pid, comm);
}

// Of several processes each refusal tells whose it is.
Refusal name_owner(Refusal refusal, const Survey& survey) {
  if (!refusal.what.starts_with("process ")) {
    refusal.what = name_of(survey.pid, survey.status.name) + ", " + refusal.what;
  }
  return refusal;
}

bool is_zombie(pid_t pid, const kernel::Stat& stat) {
  return stat.state == 'Z' && kernel::list_threads(pid).size() < 2;
}

// As the processes see themselves.
std::uint32_t own_pid(const kernel::Status& status) {
  return static_cast<std::uint32_t>(status.ns_tgids.back());
}
std::uint32_t own_group(const kernel::Status& status) {
  return static_cast<std::uint32_t>(status.ns_pgids.back());
}
std::uint32_t own_session(const kernel::Status& status) {
  return static_cast<std::uint32_t>(status.ns_sids.back());
}

struct Kin {
  const kernel::Stat* stat;
  const kernel::Status* status;
  const Survey* survey;  // of one that lives
};

// Parents before their children, those that have ended among them.
std::vector<Kin> parts_of(const TreeSurvey& tree) {
  std::vector<Kin> parts;
  for (const Survey& member : tree.members) {
    parts.push_back({&member.stat, &member.status, &member});
  }
  for (const EndedMember& ended : tree.ended)
    parts.push_back({&ended.stat, &ended.status, nullptr});
  return parts;
}

std::uint32_t exit_signal_of(const kernel::Stat& stat) {
  return static_cast<std::uint32_t>(std::max(0, stat.exit_signal));
}

std::vector<image::TreeMember> plan_members(const std::vector<Kin>& parts) {
  std::map<pid_t, std::uint32_t> own;
  for (const Kin& part : parts) own[part.stat->pid] = own_pid(*part.status);
  std::vector<image::TreeMember> members;
  for (const Kin& part : parts) {
    auto parent = own.find(part.stat->ppid);
    const auto outside = static_cast<std::uint32_t>(part.stat->ppid);
    members.push_back({own_pid(*part.status), parent == own.end() ? outside : parent->second,
                       own_group(*part.status), own_session(*part.status),
                       exit_signal_of(*part.stat)});
  }
  return members;
}

// What the kernel would not let be made once more.
void look_at_plan(TreeSurvey& tree) {
  const std::vector<Kin> parts = parts_of(tree);
  const std::vector<image::TreeMember> members = plan_members(parts);
  for (const image::TreeTrouble& trouble : image::plan_tree(members).troubles) {
    auto found = std::find_if(members.begin(), members.end(), [&](const image::TreeMember& member) {
      return member.id == trouble.id;
    });
    const kernel::Stat& stat = *parts[static_cast<std::size_t>(found - members.begin())].stat;
    tree.refusals.push_back(refuse(name_of(stat.pid, stat.comm), Reason::kUnmakeable, trouble.why));
  }
}

// Whom its parent makes there, as the kernel sees them here.
std::set<pid_t> list_children_of_makers(const TreeSurvey& tree) {
  const std::vector<Kin> parts = parts_of(tree);
  const std::vector<image::TreeMember> members = plan_members(parts);
  std::set<pid_t> made;
  for (const image::TreeStep& step : image::plan_tree(members).steps) {
    if (step.kind != image::TreeStep::Kind::kMake) continue;
    for (std::size_t i = 0; i < members.size(); ++i) {
      const bool is_it = members[i].id == step.id && members[i].parent == step.other;
      if (is_it) made.insert(parts[i].stat->pid);
    }
  }
  return made;
}

// Or of its threads: by a descriptor, which is to be had in a table of its own only.
bool enters_directory_of_its_own(const Survey& its) {
  std::set<pid_t> tasks = its.own_directories;
  if (!its.shares_directories) {
    tasks.insert(its.pid);
    const std::string cwd = kernel::read_cwd_link(its.pid);
    if (find_mode_of_removed_directory(cwd, kernel::cwd_path(its.pid)) != 0) return true;
  }
  return std::any_of(tasks.begin(), tasks.end(),
                     [](pid_t task) { return find_root_directory(task).kind != RootKind::kOurs; });
}

// Only at its birth a process comes to have something in common with another one, and that is who
// makes it.
void look_at_sharing(const Sharing& sharing, TreeSurvey& tree) {
  const std::set<pid_t> made = list_children_of_makers(tree);
  auto refuse_shared = [&tree](std::size_t member, const std::string& what) {
    const Survey& its = tree.members[member];
    tree.refusals.push_back(refuse(name_of(its.pid, its.status.name), Reason::kSharerMoves, what));
  };
  auto look = [&](SharedPart part, const char* name, std::size_t member) {
    const Survey& its = tree.members[member];
    if (made.contains(its.pid) && sharing.is_shared(part, its.pid, its.stat.ppid)) return true;
    for (std::size_t i = 0; i < member; ++i) {
      const pid_t other = tree.members[i].pid;
      if (!sharing.is_shared(part, its.pid, other)) continue;
      refuse_shared(member, fmt::format("{} with process {}", name, other));
      break;
    }
    return false;
  };
  for (std::size_t i = 1; i < tree.members.size(); ++i) {
    Survey& its = tree.members[i];
    if (sharing.is_shared(SharedPart::kMemory, its.pid, its.stat.ppid)) continue;  // as refused
    its.shares_descriptors = look(SharedPart::kDescriptors, "descriptors", i);
    its.shares_directories = look(SharedPart::kDirectories, "directories and umask", i);
    if (its.shares_descriptors && enters_directory_of_its_own(its)) {
      refuse_shared(i, fmt::format("descriptors with process {}, and is in a directory of its own",
                                   its.stat.ppid));
    }
  }
}

// It is this one's to be reaped when it has been read.
void refuse_snapshots(const SurveyOptions& options, TreeSurvey& tree) {
  const auto has_one = [&options](pid_t pid) {
    if (options.known_copied != nullptr) return options.known_copied->contains(pid);
    const std::vector<pid_t> children = kernel::list_children(pid);
    return std::any_of(children.begin(), children.end(), tracee::is_snapshot);
  };
  for (const Survey& member : tree.members) {
    if (!has_one(member.pid)) continue;
    tree.refusals.push_back(refuse(name_of(member.pid, member.status.name), Reason::kCopyUnderWay));
  }
}

// One clock for all of them.
void look_at_clocks(TreeSurvey& tree) {
  auto read = [](pid_t pid) {
    try {
      return kernel::read_ns_link(pid, "time");
    } catch (const Error& error) {
      if (error.error() != ENOENT) throw;
      return std::string();  // a kernel without time namespaces
    }
  };
  const std::string of_first = read(tree.first().pid);
  for (const Survey& member : tree.members) {
    if (read(member.pid) == of_first) continue;
    tree.refusals.push_back(
        refuse(name_of(member.pid, member.status.name), Reason::kNamespace, "time"));
  }
}

// A child may have got them by fork(2), and may have something else by that number.
std::set<std::string> list_own_sockets(pid_t first, const SurveyOptions& options) {
  std::set<std::string> sockets;
  for (const int fd : options.own_fds) {
    const std::string link = kernel::read_fd_link(first, fd);
    if (link.starts_with("socket:")) sockets.insert(link);
  }
  return sockets;
}

std::set<int> find_own_fds(pid_t pid, const std::set<std::string>& sockets) {
  std::set<int> fds;
  if (sockets.empty()) return fds;
  for (const int fd : kernel::list_fds(pid)) {
    try {
      if (sockets.contains(kernel::read_fd_link(pid, fd))) fds.insert(fd);
    } catch (const Error& error) {
      // It runs, and has closed it.
      if (error.error() != ENOENT) throw;
    }
  }
  return fds;
}

void survey_member(pid_t pid, const SurveyOptions& options,
                   const std::set<std::string>& own_sockets, TreeSurvey& tree) {
  try {
    EndedMember now{kernel::read_stat(pid), kernel::read_status(pid)};
    auto is_parent = [&](const Survey& member) { return member.pid == now.stat.ppid; };
    if (std::none_of(tree.members.begin(), tree.members.end(), is_parent)) return;  // by now
    if (is_zombie(pid, now.stat)) {
      tree.ended.push_back(std::move(now));
      return;
    }
    SurveyOptions its = options;
    its.own_fds = find_own_fds(pid, own_sockets);
    tree.members.push_back(survey_process(pid, its, {}, &tree.first()));
  } catch (const Error& error) {
    // It runs, and has ended and was waited for since it was listed.
    if (error.code() != Code::kGone) throw;
  }
}

struct SharedPart {
  std::uint64_t size = 0;  // as far as it is mapped
  const kernel::Vma* vma = nullptr;
};

// By Mapping::shared_id.
std::map<std::uint64_t, SharedPart> list_shared_memory(const TreeSurvey& tree) {
  std::map<std::uint64_t, SharedPart> parts;
  for (const Survey& member : tree.members) {
    for (const Mapping& mapping : member.mappings) {
      if (mapping.kind != Vma::Kind::SHARED_ANONYMOUS || mapping.segment) continue;
      SharedPart& part = parts[mapping.shared_id];
      part.size = std::max(part.size, mapping.vma.offset + mapping.vma.size());
      if (part.vma == nullptr) part.vma = &mapping.vma;
    }
  }
  return parts;
}

void fill_member(const Kin& part, const image::TreeMember& ids, Member::Builder record) {
  record.setPid(ids.id);
  record.setPpid(ids.parent);
  record.setPgid(ids.group);
  record.setSid(ids.session);
  record.setExitSignal(ids.exit_signal);
  record.setComm(part.stat->comm);
  if (part.survey == nullptr) {
    record.setState(Member::State::ENDED);
    record.setStatus(static_cast<std::uint32_t>(part.stat->exit_code) & 0xffff);
    record.setUid(part.status->uids[0]);
    record.setGid(part.status->gids[0]);
    return;
  }
  record.setSharesDescriptors(part.survey->shares_descriptors);
  record.setSharesDirectories(part.survey->shares_directories);
  const std::vector<pid_t> threads = kernel::list_threads(part.stat->pid);
  auto tids = record.initThreads(static_cast<unsigned>(threads.size()));
  for (unsigned i = 0; i < tids.size(); ++i) {
    tids.set(i, static_cast<std::uint32_t>(kernel::read_status(threads[i]).ns_pids.back()));
  }
}

}  // namespace

std::set<pid_t> TreeSurvey::pids() const {
  std::set<pid_t> pids;
  for (const Survey& member : members) pids.insert(member.pid);
  return pids;
}

std::vector<std::string> TreeSurvey::left_home() const {
  std::vector<std::string> all;
  for (const Survey& member : members) {
    for (const std::string& one : member.left_home) {
      all.push_back(alone() ? one : name_of(member.pid, member.status.name) + ", " + one);
    }
  }
  return all;
}

std::vector<pid_t> list_tree(pid_t pid) {
  std::vector<pid_t> all = {pid};
  for (std::size_t i = 0; i < all.size(); ++i) {
    try {
      for (const pid_t child : kernel::list_children(all[i])) {
        if (tracee::is_snapshot(child)) continue;
        if (std::find(all.begin(), all.end(), child) == all.end()) all.push_back(child);
      }
    } catch (const Error& error) {
      if (error.code() != Code::kGone || i == 0) throw;
    }
  }
  return all;
}

TreeSurvey survey_tree(pid_t pid, const SurveyOptions& options, Survey earlier) {
  TreeSurvey tree;
  SurveyOptions own = options;
  std::vector<pid_t> pids = {pid};
  const pid_t asker = options.asker != 0 ? options.asker : ::getpid();
  if (moves_whole(options.purpose)) {
    pids = options.known_tree != nullptr ? *options.known_tree : list_tree(pid);
    own.tree.insert(pids.begin(), pids.end());
  }
  own.settled_later = own.settled_later && pids.size() == 1;
  if (pids.size() > 1 && !own.quick) {
    own.sharing = std::make_shared<const Sharing>(std::set<pid_t>(pids.begin(), pids.end()));
  }
  tree.members.push_back(survey_process(pid, own, std::move(earlier)));
  std::set<std::string> own_sockets;
  if (pids.size() > 1) own_sockets = list_own_sockets(pid, options);
  for (std::size_t i = 1; i < pids.size(); ++i) {
    if (pids[i] != asker) survey_member(pids[i], own, own_sockets, tree);
  }
  if (!own.tree.empty() && own.tree.size() == pids.size()) {
    std::vector<Survey*> all;
    for (Survey& member : tree.members) all.push_back(&member);
    settle_descriptors(all);
    survey_session_terminals(tree);
  }
  if (options.purpose == Purpose::kSave || options.purpose == Purpose::kMove) {
    refuse_snapshots(options, tree);
  }
  if (pids.size() > 1 && own.tree.contains(asker)) {
    tree.first().refusals.push_back(
        refuse(name_of(pid, tree.first().status.name), Reason::kOwnAncestor));
  }
  if (tree.alone()) {
    tree.refusals = tree.first().refusals;
    return tree;
  }
  for (const Survey& member : tree.members) {
    for (const Refusal& refusal : member.refusals) {
      tree.refusals.push_back(name_owner(refusal, member));
    }
  }
  look_at_plan(tree);
  look_at_clocks(tree);
  if (own.sharing && own.may_share_again()) look_at_sharing(*own.sharing, tree);
  return tree;
}

void write_tree(const TreeSurvey& tree, image::RecordSink& sink) {
  if (tree.alone()) return;
  const std::vector<Kin> parts = parts_of(tree);
  const std::vector<image::TreeMember> members = plan_members(parts);
  ::capnp::MallocMessageBuilder message;
  auto record = message.initRoot<image::schema::Tree>();
  auto list = record.initMembers(static_cast<unsigned>(parts.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    fill_member(parts[i], members[i], list[i]);
    list[i].setNoTerminal(lacks_terminal(tree, *parts[i].stat));
    if (!tree.stopped.contains(parts[i].stat->pid)) continue;
    list[i].setState(Member::State::STOPPED);
    // What its parent has asked about is told to nobody again (kernel/exit.c, wait_task_stopped).
    list[i].setStopUntold(parts[i].stat->exit_code != 0);
  }
  const auto all_shared = list_shared_memory(tree);
  auto shared = record.initShared(static_cast<unsigned>(all_shared.size()));
  unsigned i = 0;
  for (const auto& [id, part] : all_shared) {
    shared[i].setId(id);
    shared[i].setSize(part.size);
    shared[i].setNoReserve(part.vma->has(kernel::VmFlag::kNoReserve));
    shared[i].setHugeShift(static_cast<std::uint8_t>(part.vma->huge_shift()));
    ++i;
  }
  fill_session_terminals(tree, record);
  sink.write(image::RecordType::kTree, message);
}

// Shared memory comes once: with the first process that has mapped all that this one has.
CaptureSettings settings_of(const TreeSurvey& tree, std::size_t member, CaptureSettings settings) {
  if (tree.alone()) {
    settings.stopped = !tree.stopped.empty();
    return settings;
  }
  settings.common_part = member == 0;
  settings.is_written = [&tree, member](const Mapping& mine) {
    if (mine.kind != Vma::Kind::SHARED_ANONYMOUS) return false;
    for (std::size_t i = 0; i < member; ++i) {
      for (const Mapping& mapping : tree.members[i].mappings) {
        if (mapping.kind == Vma::Kind::SHARED_ANONYMOUS && mapping.shared_id == mine.shared_id &&
            mapping.vma.offset <= mine.vma.offset &&
            mapping.vma.offset + mapping.vma.size() >= mine.vma.offset + mine.vma.size()) {
          return true;
        }
      }
    }
    return false;
  };
  return settings;
}

CommonPart::CommonPart(TreeSurvey& tree, std::size_t member) : tree_(tree), member_(member) {
  if (member_ > 0) tree_.first().swap_common(tree_.members[member_]);
}

CommonPart::~CommonPart() {
  if (member_ > 0) tree_.first().swap_common(tree_.members[member_]);
}

}  // namespace telefork::capture
