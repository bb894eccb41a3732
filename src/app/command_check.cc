// telefork check [PID] [NODE]
#include <csignal>
#include <cstdio>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/held.h"
#include "app/output.h"
#include "app/places.h"
#include "app/settings.h"
#include "base/soft_limits.h"
#include "capture/libc_identity.h"
#include "kernel/probe.h"
#include "kernel/yama.h"
#include "migrate/save.h"
#include "session/file_negotiation.h"
#include "session/hosting.h"
#include "session/memory_check.h"
#include "session/node_link.h"
#include "session/watch_loan.h"

namespace telefork::app {
namespace {

using image::schema::Machine;
using nlohmann::ordered_json;

constexpr std::chrono::seconds kLastWords(1);

ordered_json machine_json(Machine::Reader machine) {
  return {{"hostname", machine.getHostname().cStr()},
          {"kernel", machine.getKernelRelease().cStr()},
          {"architecture", machine.getArchitecture().cStr()},
          {"cpu", machine.getCpuModel().cStr()},
          {"page_size", machine.getPageSize()},
          {"libc", machine.getLibc().cStr()}};
}

std::string describe_machine(Machine::Reader machine) {
  return escape(fmt::format(
      "{}: Linux {}, {}, {}, pages of {} bytes{}", machine.getHostname().cStr(),
      machine.getKernelRelease().cStr(), machine.getArchitecture().cStr(),
      machine.getCpuModel().cStr(), machine.getPageSize(),
      machine.getLibc().size() == 0 ? "" : fmt::format(", {}", machine.getLibc().cStr())));
}

class Check {
 public:
  explicit Check(const CheckCommand& command) : command_(command) {}

  int run() {
    if (command_.pid == 0 && command_.node.empty()) check_machine();
    if (!command_.node.empty()) guard([&] { open(); });
    if (command_.pid != 0 && opened_) guard([&] { check_node(); });
    if (command_.pid != 0) guard([&] { survey(); });
    if (opened_) {
      opened_->link->send([](auto message) { message.setAbort("only a check"); });
      opened_->link->flush(net::Deadline::in(kLastWords));
    }
    if (command_.json) {
      result_["ok"] = code_ == 0;
      result_["exit_code"] = code_;
      print_json(result_);
    } else if (code_ == 0 && command_.pid != 0) {
      print("process {} can {}{}\n", command_.pid, able_to(),
            command_.node.empty() ? "" : " to " + escape(command_.node));
    }
    return code_;
  }

 private:
  std::string_view able_to() const {
    switch (purpose()) {
      case capture::Purpose::kFork:
        return "fork";
      case capture::Purpose::kRunOn:
        return "go for a call";
      case capture::Purpose::kCopy:
        return "be copied";
      default:
        return "move";
    }
  }

  // What stands in the way is the answer, not a failure: everything else is looked at too.
  template <class F>
  void guard(F&& f) {
    try {
      f();
    } catch (const StdoutError&) {
      throw;
    } catch (const Error& error) {
      int code = exit_code(error);
      if (code_ == 0) code_ = code;
      if (error.code() == Code::kRefused) return add_refusals(error);
      result_.update(error_object(error, code));
      print_error(error);
    }
  }

  void add_refusals(const Error& error) {
    std::string lines = describe(error);
    for (std::size_t at = 0; at < lines.size();) {
      std::size_t end = std::min(lines.find('\n', at), lines.size());
      add_refusal(lines.substr(at, end - at));
      at = end + 1;
    }
  }
  // The answer, and so data.
  void add_refusal(const std::string& line) {
    result_["refused"].push_back(line.substr(std::string_view("refused: ").size()));
    if (!command_.json) print("{}\n", escape(line));
  }

  void check_machine();
  void open();
  void tell_lacks(std::string_view what, const std::string& why) const;
  capture::Purpose purpose() const;
  capture::SurveyOptions survey_options() const;
  void check_node();
  void check_members(const capture::TreeSurvey& tree);
  void survey();

  const CheckCommand& command_;
  ordered_json result_ = ordered_json::object();
  protocol::OwnMachine here_;
  std::optional<session::OpenedNode> opened_;
  int code_ = 0;
};

void Check::check_machine() {
  kernel::Features features = kernel::probe_features();
  result_["machine"] = machine_json(here_.reader());
  result_["features"] = ordered_json::array();
  if (!command_.json) print("{}\n", describe_machine(here_.reader()));
  for (const kernel::FeatureReport& report : kernel::describe(features)) {
    result_["features"].push_back({{"name", report.name},
                                   {"present", report.present},
                                   {"what_is_lost", report.present ? "" : report.what_is_lost}});
    if (command_.json) continue;
    if (report.present) {
      print("  yes  {}\n", report.name);
    } else {
      print("  {}   {}: {}\n", alarming("no", stdout), report.name, report.what_is_lost);
    }
  }
  // Everything but `run` begins with it.
  if (!features.ptrace) code_ = static_cast<int>(Code::kRefused);
}

void Check::open() {
  opened_.emplace(session::open_node(net::parse_node(command_.node), here_,
                                     session::find_programs(), read_settings().access,
                                     command_.cpu_force));
  Machine::Reader machine = opened_->reply->getMachine();
  result_["node"] = machine_json(machine);
  result_["node"]["name"] = command_.node;
  result_["node"]["telefork"] = opened_->reply->getCreator().cStr();
  auto hosting = opened_->reply->getHosting();
  auto user = opened_->reply->getUser();
  result_["node"]["user"] = {
      {"uid", user.getUid()}, {"gid", user.getGid()}, {"sets_ids", user.getChoosesIds()}};
  result_["node"]["no_processes_because"] = hosting.getProcesses().cStr();
  result_["node"]["no_kept_ids_because"] = hosting.getIds().cStr();
  if (!command_.json) {
    print("{}: {} ({})\n", escape(command_.node), describe_machine(machine),
          escape(opened_->reply->getCreator().cStr()));
  }
  if (!command_.json && command_.pid == 0) {
    print("  guests there are user {}{}\n", user.getUid(),
          user.getChoosesIds() ? ", or whoever they are here" : "");
  }
  tell_lacks("take in processes", hosting.getProcesses().cStr());
  tell_lacks("let a process keep its ids, as run_on must", hosting.getIds().cStr());
}

// Of the node alone no answer but a note: a command can go there.
void Check::tell_lacks(std::string_view what, const std::string& why) const {
  if (why.empty() || command_.json || command_.pid != 0) return;
  fmt::print("  {}   it cannot {}: {}\n", alarming("no", stdout), what, escape(why));
}

capture::Purpose Check::purpose() const {
  if (command_.purpose == "fork") return capture::Purpose::kFork;
  if (command_.purpose == "run_on") return capture::Purpose::kRunOn;
  if (command_.purpose == "copy") return capture::Purpose::kCopy;
  return command_.purpose == "move" ? capture::Purpose::kMove : capture::Purpose::kSave;
}

capture::SurveyOptions Check::survey_options() const {
  capture::SurveyOptions options;
  options.copy_shared = command_.copy_shared;
  options.leave_home = command_.leave_fds;
  options.trace_bar = kernel::read_trace_bar();
  options.purpose = purpose();
  options.detached = command_.detach;
  if (capture::moves_whole(purpose())) {
    const auto keeper = session::find_keeper_call(command_.pid, visible_registries());
    if (keeper) options.own_namespaces = keeper->namespaces;
    if (keeper && purpose() == capture::Purpose::kMove) options.keeper = keeper->keeper;
  }
  // It stays, and with it all that it shares.
  if (purpose() == capture::Purpose::kFork) options.sharer = command_.pid;
  return options;
}

// What the node refuses of this process, whatever it has.
void Check::check_node() {
  session::check_user(kernel::read_status(command_.pid), *opened_);
  session::check_hosting(*opened_->reply, command_.node, purpose() != capture::Purpose::kFork);
  if (command_.detach) session::check_detaching(opened_->reply, command_.node);
  if (purpose() == capture::Purpose::kRunOn) {
    protocol::check_can_return(here_.reader(), opened_->reply->getMachine());
  }
}

// The first of them was asked about before.
void Check::check_members(const capture::TreeSurvey& tree) {
  if (tree.alone()) return;
  session::check_trees(opened_->reply, command_.node);
  for (const capture::Survey& member : tree.members) {
    if (member.pid != command_.pid) session::check_user(member.status, *opened_);
  }
}

void Check::survey() {
  result_["pid"] = command_.pid;
  refuse_held(command_.pid, purpose() == capture::Purpose::kMove ? Wish::kMoveOn : Wish::kTake);
  capture::TreeSurvey tree = migrate::survey_tree_by_pid(command_.pid, survey_options());
  capture::Survey& survey = tree.first();
  survey.refusals = std::move(tree.refusals);
  result_["command"] = survey.status.name;
  result_["processes"] = tree.members.size();
  int threads = 0;
  std::size_t descriptors = 0;
  std::size_t mappings = 0;
  for (const capture::Survey& member : tree.members) {
    threads += member.status.threads;
    descriptors += member.descriptors.size();
    mappings += member.mappings.size();
  }
  result_["threads"] = threads;
  result_["descriptors"] = descriptors;
  result_["mappings"] = mappings;
  const std::vector<std::string> left_home = tree.left_home();
  result_["left_home"] = left_home;
  for (const std::string& descriptor : left_home) {
    if (!command_.json) print("left at home: {}\n", escape(descriptor));
  }
  for (const capture::Survey& member : tree.members) {
    if (opened_) session::check_root(member, *opened_);
  }
  if (opened_) check_members(tree);
  if (opened_) {
    const auto lacking = session::ask_about_memory(tree, *opened_->reply, *opened_->link);
    survey.refusals.insert(survey.refusals.end(), lacking.begin(), lacking.end());
    session::FileNegotiation files;
    files.settle(survey, *opened_->link);
    std::uint64_t carried = 0;
    for (const capture::FileEntry& file : survey.files.entries()) {
      if (file.content_id != 0) carried += static_cast<std::uint64_t>(file.stat.st_size);
    }
    result_["file_bytes_to_carry"] = carried;
  }
  capture::throw_refusals(survey.refusals);
  if (opened_ && purpose() == capture::Purpose::kFork && !session::lets_keep_ids(*opened_->reply) &&
      !capture::identify_libc(survey).is_glibc) {
    session::check_hosting(*opened_->reply, command_.node, true);
  }
}

}  // namespace

int check_command(const CheckCommand& command) {
  set_own_signals();
  raise_soft_limits();
  return Check(command).run();
}

}  // namespace telefork::app
