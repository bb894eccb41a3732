#include "capture/survey.h"

#include <linux/capability.h>
#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/beside.h"
#include "base/error.h"
#include "capture/removed_directory.h"
#include "capture/root_directory.h"
#include "tracee/sigreturn_finder.h"

namespace telefork::capture {
namespace {

std::string name_of(const Survey& survey) {
  return fmt::format("process {} ({})", survey.pid, survey.status.name);
}

// What a process of another network or mount namespace sees is not what its new home has. A
// container's process is captured by the telepad of that container. But where a run_on() brought it
// its keeper may have made some, which show it nothing else than its ids (restore/pid_namespace.h).
void survey_namespaces(const SurveyOptions& options, Survey& survey) {
  for (const char* name : {"pid", "mnt", "net", "user", "ipc", "uts"}) {
    const std::string link = kernel::read_ns_link(survey.thread, name);
    if (link == kernel::read_ns_link(::getpid(), name)) continue;
    const auto& own = options.own_namespaces;
    if (std::find(own.begin(), own.end(), link) != own.end()) continue;
    bool by_keeper = std::string_view(name) == "pid" || std::string_view(name) == "mnt" ||
                     std::string_view(name) == "user";
    const bool homewards = options.purpose == Purpose::kHome;
    if (by_keeper && !homewards && is_in_a_call(survey)) continue;
    const Reason reason = homewards ? Reason::kLeftNamespace : Reason::kNamespace;
    survey.refusals.push_back(refuse(name_of(survey), reason, name));
  }
}

// What it has left has made it see something else than where it is at home.
void survey_left_namespaces(const std::map<std::string, std::string>& before, Survey& survey) {
  for (const auto& [name, link] : before) {
    if (kernel::read_ns_link(survey.thread, name) == link) continue;
    survey.refusals.push_back(refuse(name_of(survey), Reason::kLeftNamespace, name));
  }
}

// A fork would be there, and telefork not. Until there is a child the link cannot be read.
bool has_children_elsewhere(const Survey& survey) {
  try {
    return kernel::read_ns_link(survey.thread, "pid_for_children") !=
           kernel::read_ns_link(survey.thread, "pid");
  } catch (const Error& error) {
    if (error.error() != ENOENT) throw;
    return true;
  }
}

// The stub needs it (tracee/stub.h). A program that calls fork has it by then: of its libc.
void survey_signal_return(Survey& survey) {
  try {
    tracee::check_sigreturn_in(survey.pid);
  } catch (const Error& error) {
    if (error.code() != Code::kRefused) throw;
    survey.refusals.push_back(
        refuse(name_of(survey), Reason::kNoSignalReturn, std::to_string(survey.pid)));
  }
}

bool has_memory(pid_t pid) {
  kernel::Status status = kernel::read_status(pid);
  return status.resident_kb + status.swap_kb > 0;
}

// By the check that ptrace(2) makes (ptrace_may_access), without stopping it.
bool may_attach(pid_t pid) {
  return static_cast<bool>(UniqueFd(::open(kernel::mem_path(pid).c_str(), O_RDONLY | O_CLOEXEC)));
}

// A process that calls names its tracer itself, and the keeper's descends from it.
std::optional<Reason> find_yama_reason(const SurveyOptions& options, pid_t pid) {
  using kernel::TraceBar;
  switch (options.trace_bar) {
    case TraceBar::kNone:
      break;
    case TraceBar::kStrangers:
      if (moves_whole(options.purpose) && !may_attach(pid)) return Reason::kYamaStrangers;
      break;
    case TraceBar::kUsers:
      return Reason::kYamaUsers;
    case TraceBar::kEverybody:
      return Reason::kYamaEverybody;
  }
  return std::nullopt;
}

bool is_seen_as(pid_t tid, pid_t own_tid) {
  try {
    return kernel::read_status(tid).ns_pids.back() == own_tid;
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    return false;
  }
}

// Most often the numbers are the same; within a pid namespace of its own they need not be.
pid_t find_thread(const SurveyOptions& options, pid_t pid) {
  if (options.purpose != Purpose::kFork || options.caller == 0) return pid;
  if (kernel::is_thread_of(pid, options.caller) && is_seen_as(options.caller, options.caller)) {
    return options.caller;
  }
  for (pid_t tid : kernel::list_threads(pid)) {
    if (is_seen_as(tid, options.caller)) return tid;
  }
  return pid;
}

bool is_for_a_call(Purpose purpose) {
  return purpose == Purpose::kRunOn || purpose == Purpose::kReturn;
}

void survey_directory(pid_t thread, const SurveyOptions& options, Survey& survey) {
  std::string cwd;
  try {
    cwd = kernel::read_cwd_link(thread);
  } catch (const Error& error) {
    if (error.error() != ENAMETOOLONG) throw;
    survey.refusals.push_back(refuse(name_of(survey), Reason::kLongDirectory, "working"));
    return;
  }
  if (find_mode_of_removed_directory(cwd, kernel::cwd_path(thread)) != 0) {
    // At home the one that it has is another one than that which it has had there.
    if (thread == survey.thread && !is_for_a_call(options.purpose)) return;
    survey.refusals.push_back(refuse(name_of(survey), Reason::kDirectoryRemoved, cwd));
  } else if (options.purpose != Purpose::kReturn) {
    survey.files.add_directory(cwd);
  }
}

void survey_root(pid_t thread, const SurveyOptions& options, Survey& survey) {
  RootDirectory root;
  try {
    root = find_root_directory(thread);
  } catch (const Error& error) {
    if (error.error() != ENAMETOOLONG) throw;
    survey.refusals.push_back(refuse(name_of(survey), Reason::kLongDirectory, "root"));
    return;
  }
  if (root.kind == RootKind::kOurs) return;
  if (root.kind == RootKind::kHidden || !moves_whole(options.purpose)) {
    survey.refusals.push_back(refuse(name_of(survey), Reason::kChroot));
    return;
  }
  survey.changed_root = root.path;
  if (root.kind == RootKind::kOther) survey.files.add_directory(root.path);
}

void survey_own_directories(const SurveyOptions& options, Survey& survey) {
  for (pid_t thread : survey.own_directories) {
    try {
      survey_directory(thread, options, survey);
      survey_root(thread, options, survey);
    } catch (const Error& error) {
      // A running process ends threads.
      if (error.code() != Code::kGone && error.error() != ENOENT) throw;
    }
  }
}

// It can be put on it again by itself alone. Of one that comes home its pid is under it already,
// and threads that are made there would be before they are traced.
bool may_move_seccomp(const SurveyOptions& options, const Survey& survey) {
  constexpr int kStrict = 1;
  const kernel::Status& status = survey.status;
  if (status.seccomp == 0) return true;
  const bool may_have = status.no_new_privs || (status.cap_effective >> CAP_SYS_ADMIN & 1) != 0;
  const bool needs_one_thread = status.seccomp == kStrict || options.purpose == Purpose::kHome;
  const bool alone = !needs_one_thread || kernel::list_threads(survey.pid).size() == 1;
  return moves_whole(options.purpose) && may_have && alone && kernel::may_suspend_seccomp();
}

}  // namespace

unsigned Survey::carried_streams() const {
  unsigned streams = 0;
  for (const Descriptor& descriptor : descriptors) {
    if (descriptor.fd > 2) continue;
    const Description& description = descriptions[descriptor.description];
    if (description.kind == image::schema::FileDescription::Kind::STDIO) {
      streams |= 1U << static_cast<unsigned>(descriptor.fd);
    }
  }
  return streams;
}

void survey_policy(const SurveyOptions& options, Survey& survey) {
  std::string process = name_of(survey);
  if (!may_move_seccomp(options, survey)) {
    survey.refusals.push_back(refuse(process, Reason::kSeccomp));
  }
  const pid_t tracer = survey.status.tracer_pid;
  if (tracer != 0 && tracer != ::getpid() && tracer != options.keeper) {
    survey.refusals.push_back(refuse(process, Reason::kTraced, std::to_string(tracer)));
  }
  std::optional<Reason> forbidden = find_yama_reason(options, survey.pid);
  if (forbidden) survey.refusals.push_back(refuse(process, *forbidden));
  survey_root(survey.thread, options, survey);
  survey_directory(survey.thread, options, survey);
  // It reads memory.
  if (moves_whole(options.purpose) && !forbidden) survey_signal_return(survey);
  if (options.purpose == Purpose::kReturn && !kernel::list_children(survey.pid).empty()) {
    survey.refusals.push_back(refuse(process, Reason::kChildrenThere));
  }
  const bool returns = options.namespaces != nullptr;
  if (returns) {
    survey_left_namespaces(*options.namespaces, survey);
  } else {
    survey_namespaces(options, survey);
  }
  if (has_children_elsewhere(survey)) {
    survey.refusals.push_back(returns ? refuse(process, Reason::kLeftNamespace, "pid")
                                      : refuse(process, Reason::kChildrenElsewhere));
  }
}

void Survey::swap_common(Survey& other) {
  std::swap(files, other.files);
  std::swap(descriptions, other.descriptions);
  std::swap(pipes, other.pipes);
  std::swap(ptys, other.ptys);
  std::swap(sockets, other.sockets);
  std::swap(in_flight, other.in_flight);
  std::swap(outside, other.outside);
  std::swap(shared_ids, other.shared_ids);
}

namespace {

// For as long as it lives.
class CommonPart {
 public:
  CommonPart(Survey* first, Survey& survey) : first_(first), survey_(survey) {
    if (first_ != nullptr) first_->swap_common(survey_);
  }
  CommonPart(const CommonPart&) = delete;
  CommonPart& operator=(const CommonPart&) = delete;
  ~CommonPart() {
    if (first_ != nullptr) first_->swap_common(survey_);
  }

 private:
  Survey* first_;
  Survey& survey_;
};

void survey_parts(pid_t pid, const SurveyOptions& options, Survey& earlier, Survey& survey);

// Of a fork only one comes along.
std::vector<pid_t> threads_to_compare(const SurveyOptions& options, pid_t pid) {
  if (options.purpose == Purpose::kFork) return {};
  std::vector<pid_t> threads = kernel::list_threads(pid);
  if (threads.size() < 2) threads.clear();
  return threads;
}

}  // namespace

// What is read of every thread, some tens of microseconds each, and of every process of the
// machine: where it takes long another thread of ours does it. Of what stands still only what the
// records need, so that this thread is no burden to what is done meanwhile, at the destination too;
// the rest when all has been sent.
class SurveyBeside {
 public:
  SurveyBeside(const SurveyOptions& options, const Survey& survey)
      : options_(options),
        first_(survey.status),
        pid_(survey.pid),
        threads_(threads_to_compare(options, survey.pid)),
        refusals_before_(survey.refusals.size()) {
    if (threads_.size() >= kMany) beside_.emplace([this] { look(); });
  }

  // What is in their way is told ahead of what the later parts have found.
  void settle(Survey& survey) {
    beside_ ? beside_->finish() : look();
    survey.own_directories = std::move(found_.own_directories);
    survey.own_credentials = std::move(found_.own_credentials);
    Refusals& all = survey.refusals;
    for (const Refusals* refusals : {&sharers_, &found_.refusals}) {
      all.insert(all.begin() + static_cast<std::ptrdiff_t>(refusals_before_), refusals->begin(),
                 refusals->end());
    }
  }

  void settle_rest(Survey& survey) const {
    Refusals sharers = find_sharers(options_, pid_, first_.name);
    if (!threads_.empty()) {
      const ThreadSurvey rest =
          survey_threads(options_.purpose, first_, threads_, ThreadParts::kAlike);
      sharers.insert(sharers.end(), rest.refusals.begin(), rest.refusals.end());
    }
    survey.refusals.insert(survey.refusals.end(), sharers.begin(), sharers.end());
  }

 private:
  static constexpr std::size_t kMany = 8;

  void look() {
    const bool later = options_.settled_later;
    if (!threads_.empty()) {
      found_ = survey_threads(options_.purpose, first_, threads_,
                              later ? ThreadParts::kOwn : ThreadParts::kAll);
    }
    if (!later) sharers_ = find_sharers(options_, pid_, first_.name);
  }

  SurveyOptions options_;
  kernel::Status first_;
  pid_t pid_;
  std::vector<pid_t> threads_;
  std::size_t refusals_before_;
  ThreadSurvey found_;
  Refusals sharers_;
  std::optional<Beside> beside_;
};

void settle(const SurveyOptions& options, Survey& survey) {
  if (!survey.beside) return;
  survey.beside->settle(survey);
  if (!options.settled_later) survey.beside.reset();
  survey_own_directories(options, survey);
}

void settle_rest(Survey& survey) {
  if (survey.beside) std::exchange(survey.beside, nullptr)->settle_rest(survey);
}

Survey survey_process(pid_t pid, const SurveyOptions& options, Survey earlier, Survey* first) {
  Survey survey(pid, options.tree);
  {
    const CommonPart common(first, survey);
    survey_parts(pid, options, earlier, survey);
  }
  return survey;
}

namespace {

void survey_parts(pid_t pid, const SurveyOptions& options, Survey& earlier, Survey& survey) {
  survey.whole = moves_whole(options.purpose);
  survey.original_stays = options.purpose == Purpose::kCopy;
  survey.copies_shared = options.copy_shared;
  // Its keeper may have made namespaces for either.
  if (options.purpose == Purpose::kReturn || options.purpose == Purpose::kHome) {
    survey.in_a_call = true;
  }
  if (survey.files.entries().empty()) survey.files.know(std::move(earlier.files));
  survey.files.set_originals(options.originals);
  survey.stat = kernel::read_stat(pid);
  survey.thread = find_thread(options, pid);
  survey.status = kernel::read_status(survey.thread);
  survey.status.name = survey.stat.comm;  // the process's, whatever the thread is called
  if (survey.status.tgid != pid) {
    survey.refusals.push_back(
        refuse(std::to_string(pid), Reason::kThreadsId, std::to_string(survey.status.tgid)));
    return;
  }
  if (survey.stat.state == 'Z') {
    if (kernel::list_threads(pid).size() < 2) {
      throw Error(Code::kGone, fmt::format("process {} has ended", pid));
    }
    // Its memory, descriptors and directories cannot be seen from here: the kernel shows those of
    // the thread that has ended.
    survey.refusals.push_back(refuse(name_of(survey), Reason::kLeaderEnded));
    return;
  }
  survey_policy(options, survey);
  survey.beside = std::make_shared<SurveyBeside>(options, survey);
  survey_mappings(options, earlier, survey);
  survey_descriptors(options, survey);
  if (!options.settled_later) settle(options, survey);
  // What has no memory any more seems to lack all sorts of things.
  if (!survey.refusals.empty() && !has_memory(pid)) {
    throw Error(Code::kGone, fmt::format("process {} has ended", pid));
  }
}

}  // namespace

}  // namespace telefork::capture
