// Every victim through every mode: a case each, `Victims/File.Passes/fd_position`.
//
// A mode is a small class, below: what is done to a victim that is ready. What a victim says of
// itself (../victim.h) holds in all of them: what is refused is refused by `check` and `save` in
// the same words, and the victim goes on.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "destination.h"
#include "fault.h"
#include "kernel/testing_huge_pages.h"
#include "process_state.h"
#include "scene.h"
#include "seen_process.h"
#include "stepping_programs.h"
#include "victim_process.h"

namespace victims {
namespace {

namespace fs = std::filesystem;
using fork_test::SteppingPrograms;
using telefork::session::Step;
using telefork::session::step_name;

constexpr int kRefused = 3;
constexpr int kUndone = 75;
constexpr int kLost = 125;

const std::vector<std::string>& all_names() {
  static const std::vector<std::string> all = {
#include "victim_names.inc"
  };
  return all;
}

// Of `all`, which a mode has. Where one case is asked for, the thousands of others need not be
// made.
std::vector<std::string> asked_of(std::vector<std::string> all) {
  const std::string filter = GTEST_FLAG_GET(filter);
  const std::string asked = filter.substr(filter.rfind('/') + 1);
  const auto& known = all_names();
  if (filter.find(':') != std::string::npos) return all;
  if (std::find(known.begin(), known.end(), asked) != known.end()) {
    std::erase_if(all, [&](const std::string& name) { return name != asked; });
  }
  return all;
}

std::vector<std::string> names() { return asked_of(all_names()); }

// A tenth of them, or all others.
std::vector<std::string> names_of_tenth(bool others) {
  std::vector<std::string> found;
  for (std::size_t i = 0; i < all_names().size(); ++i) {
    if ((i % 10 != 0) == others) found.push_back(all_names()[i]);
  }
  return asked_of(std::move(found));
}

void expect_in_limits(const std::string& sentence) {
  EXPECT_NE(fork_test::slurp(LIMITS_PAGE).find(sentence), std::string::npos)
      << "not in docs/limits.md: " << sentence;
}

class Mode : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override;
  void TearDown() override;

  // What is done to the victim, which is ready. Afterwards it runs, here or elsewhere.
  virtual void take(VictimProcess& victim) = 0;
  // Whether it is what `save` refuses that would be done.
  virtual bool saves() const { return true; }
  // What would do that.
  virtual std::vector<std::string> command(pid_t pid) const {
    return {"save", std::to_string(pid), image()};
  }
  virtual std::vector<std::string> check_command(pid_t pid) const {
    return {"check", std::to_string(pid), "--json"};
  }
  virtual std::vector<std::string> refused(const Declared& declared) const {
    return declared.refused;
  }
  // Whether telefork may say that on its stderr.
  virtual bool may_say(const std::string& /*line*/) const { return false; }
  // Whether it goes on in a process that was restored.
  virtual bool restores() const { return false; }
  // The sentence about what it loses, or nothing.
  virtual std::string lost(const Declared& declared) const { return declared.loses; }
  // To another machine.
  virtual bool goes_far() const { return false; }
  // The kernel may keep it for the deputy.
  virtual bool loses_for_certain() const { return true; }
  virtual std::string victim_name() const { return GetParam(); }
  // Of what /proc tells before and after: what is not to be.
  virtual std::string differences(pid_t pid, const ProcessState& before) const {
    return ProcessState(pid).differences_from(before);
  }
  // Of one that was taken: it has ended, as it was to.
  virtual bool is_over() const { return false; }
  // When what is refused has been asked for.
  virtual void on_refused() const {}
  void run();

  std::string image() const { return folder_ + ".tfi"; }
  // Of one that did not come to tidy up.
  void empty_folder() const {
    for (const auto& entry : fs::directory_iterator(folder_)) fs::remove_all(entry.path());
  }
  Finished telefork(const std::vector<std::string>& arguments) const;
  void expect_refused(const VictimProcess& victim) const;

 private:
  void expect_end(VictimProcess& victim) const;

  std::string folder_;
  std::optional<telefork::kernel::SpareHugePages> huge_pages_;
};

void Mode::SetUp() {
  // Of what is here, what is there, and what has come back, for an instant.
  constexpr int kHugePages = 48;
  if (victim_name().find("hugetlb") != std::string::npos) huge_pages_.emplace(kHugePages);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  std::string path = fs::temp_directory_path() / "telefork-victim.XXXXXX";
  ASSERT_NE(mkdtemp(path.data()), nullptr);
  folder_ = path;
}

void Mode::TearDown() {
  EXPECT_TRUE(fork_test::all_processes_end());
  // One that has failed did not come to tidy up.
  const bool failed = HasFailure();
  std::error_code gone;
  for (const auto& entry : fs::directory_iterator(folder_, gone)) {
    if (!IsSkipped() && !failed) ADD_FAILURE() << "left behind: " << entry.path();
  }
  fs::remove_all(folder_);
  fs::remove("/dev/shm" / fs::path(folder_).filename());
  fs::remove(image());
}

Finished Mode::telefork(const std::vector<std::string>& arguments) const {
  std::vector<std::string> all = {TELEFORK_PROGRAM};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return run_command(all, "/");
}

void Mode::run() {
  VictimProcess victim(VICTIM_FOLDER "/" + victim_name(), folder_);
  const bool ready = victim.await_ready();
  if (!victim.declared().skip.empty()) GTEST_SKIP() << "needs: " << victim.declared().skip;
  if (!ready) {
    FAIL() << "it was never ready: " << victim.finish().err;
  }
  if (goes_far()) victim.ignore_what_is_near();
  const ProcessState before(victim.pid());
  if (saves() && !refused(victim.declared()).empty()) {
    expect_refused(victim);
    on_refused();
  } else if (goes_far() && !victim.declared().stays_near.empty()) {
    expect_in_limits(victim.declared().stays_near);
  } else {
    take(victim);
  }
  if (HasFatalFailure() || is_over()) return;
  const bool loses = restores() && !lost(victim.declared()).empty();
  if (victim.wake() && !loses) {
    EXPECT_EQ(differences(victim.visible_pid(), before), "");
  }
  expect_end(victim);
}

void Mode::expect_end(VictimProcess& victim) const {
  const Finished end = victim.finish();
  const std::string lost_here = lost(victim.declared());
  if (!restores() || lost_here.empty()) {
    const std::string& note = victim.declared().noted_beside;
    std::istringstream lines(end.err);
    for (std::string line; std::getline(lines, line);) {
      const bool is_noted = !note.empty() && line.find(note) != std::string::npos;
      EXPECT_TRUE(is_noted || may_say(line)) << line;
    }
    EXPECT_EQ(end.out, "pass\n");
    EXPECT_EQ(end.code, 0);
    return;
  }
  if (loses_for_certain()) {
    EXPECT_EQ(end.code, 1) << "it says that it is lost, and it is there: " << end.err;
  }
  expect_in_limits(lost_here);
}

// Every refusal is one that the victim names, and all of those are there.
void expect_same(const std::vector<std::string>& said, const std::vector<std::string>& declared) {
  std::string all;
  for (const std::string& line : said) {
    all += line + "\n";
    EXPECT_TRUE(
        std::any_of(declared.begin(), declared.end(),
                    [&](const std::string& text) { return line.find(text) != std::string::npos; }))
        << "not declared: " << line;
  }
  for (const std::string& text : declared) {
    EXPECT_NE(all.find(text), std::string::npos) << "not refused: " << text << "\nbut:\n" << all;
  }
}

std::vector<std::string> refusals_of_check(const Finished& check) {
  const auto object = nlohmann::json::parse(check.out, nullptr, false);
  if (object.is_discarded()) return {"no JSON: " + check.out};
  return object.value("refused", std::vector<std::string>{});
}

// `save` says a line each, `refused: ` before it.
std::vector<std::string> refusals_of_save(const Finished& save) {
  const std::string mark = "refused: ";
  std::vector<std::string> lines;
  std::istringstream text(save.err);
  for (std::string line; std::getline(text, line);) {
    const auto at = line.find(mark);
    if (at != std::string::npos) lines.push_back(line.substr(at + mark.size()));
  }
  return lines;
}

void Mode::expect_refused(const VictimProcess& victim) const {
  const Declared& declared = victim.declared();
  const Finished check = telefork(check_command(victim.pid()));
  const Finished save = telefork(command(victim.pid()));
  const bool once_stopped = declared.once_stopped && refused(declared) == declared.refused;
  EXPECT_EQ(check.code, once_stopped ? 0 : kRefused) << check.out << check.err;
  ASSERT_EQ(save.code, once_stopped ? kUndone : kRefused) << save.err;
  if (!once_stopped) {
    expect_same(refusals_of_check(check), refused(declared));
    EXPECT_EQ(refusals_of_save(save), refusals_of_check(check)) << save.err;
  } else {
    for (const std::string& text : refused(declared)) {
      EXPECT_NE(save.err.find(text), std::string::npos) << save.err;
    }
  }
  EXPECT_FALSE(fs::exists(image()));
}

// Nothing is done to it: proves the victim.
class None : public Mode {
  void take(VictimProcess&) override {}
  bool saves() const override { return false; }
};

// Saved, ended, and loaded from the file. `check` says before it what `save` then says.
class File : public Mode {
  void take(VictimProcess& victim) override {
    const std::string pid = std::to_string(victim.pid());
    const Finished check = telefork({"check", pid, "--json"});
    EXPECT_EQ(check.code, 0) << check.out << check.err;
    const Finished save = telefork({"save", pid, image()});
    ASSERT_EQ(save.code, 0) << save.err;
    ASSERT_EQ(victim.await_end(), 128 + SIGKILL);
    const std::string& refused = victim.declared().refused_by_load;
    if (refused.empty()) {
      victim.continue_as({TELEFORK_PROGRAM, "load", image()});
      return;
    }
    const Finished load = telefork({"load", image()});
    EXPECT_EQ(load.code, kLost) << load.err;
    EXPECT_NE(load.err.find(refused), std::string::npos) << load.err;
    is_over_ = true;
  }
  bool restores() const override { return true; }
  bool is_over() const override { return is_over_; }
  // A plain user cannot choose a pid, and so has a namespace.
  std::string lost(const Declared& declared) const override {
    return declared.loses.empty() && geteuid() != 0 ? declared.loses_in_namespace : declared.loses;
  }

 private:
  bool is_over_ = false;
};

// With a telepad.
class ToNode : public Mode {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(Mode::SetUp());
    there_.emplace(telepad_program());
    while (!there_->may_listen() || telefork({"check", node()}).code != 0) {
      ASSERT_FALSE(there_->has_ended()) << "telepad has ended";
      fork_test::pause_between_looks();
    }
  }
  void TearDown() override {
    there_.reset();
    Mode::TearDown();
  }
  std::string node() const { return there_->node(); }
  const Destination& there() const { return *there_; }
  virtual std::string telepad_program() const { return TELEPAD_PROGRAM; }
  bool goes_far() const override { return Destination::is_another_machine(); }
  // What is refused there, `more` beside what always is.
  static std::vector<std::string> refused_with(const Declared& declared,
                                               std::vector<std::string> more) {
    if (!more.empty() && declared.once_stopped) return more;  // it comes not so far
    more.insert(more.end(), declared.refused.begin(), declared.refused.end());
    return more;
  }
  bool restores() const override { return true; }
  std::string lost(const Declared& declared) const override {
    return declared.loses.empty() ? declared.loses_in_namespace : declared.loses;
  }
  bool loses_for_certain() const override { return false; }

 private:
  std::optional<Destination> there_;
};

// It goes there, and its deputy stays.
class Move : public ToNode {
 protected:
  virtual bool may_come_home(const Declared& /*declared*/) const { return true; }
  std::vector<std::string> command(pid_t pid) const override {
    return {"move", std::to_string(pid), node(), "--json"};
  }
  std::vector<std::string> check_command(pid_t pid) const override {
    return {"check", std::to_string(pid), node(), "--json"};
  }
  void take(VictimProcess& victim) override {
    const Finished move = telefork(command(victim.pid()));
    if (const std::string& clash = victim.declared().clashes; !clash.empty()) {
      EXPECT_EQ(move.code, kUndone) << move.err;
      EXPECT_NE(move.err.find(clash), std::string::npos) << move.err;
      return;
    }
    ASSERT_EQ(move.code, 0) << move.err;
    victim.continue_elsewhere(there().seen_from_here(nlohmann::json::parse(move.out).at("pid")));
  }
  std::vector<std::string> refused(const Declared& declared) const override {
    std::vector<std::string> more = declared.refused_by_move;
    more.insert(more.end(), declared.refused_beside.begin(), declared.refused_beside.end());
    return refused_with(declared, std::move(more));
  }
};

// A copy goes there, and the original is killed: the copy passes.
class Fork : public ToNode {
 protected:
  std::vector<std::string> command(pid_t pid) const override {
    return {"fork", std::to_string(pid), node(), "--json"};
  }
  std::vector<std::string> check_command(pid_t pid) const override {
    return {"check", std::to_string(pid), node(), "--for", "copy", "--json"};
  }
  void take(VictimProcess& victim) override {
    const Finished fork = telefork(command(victim.pid()));
    ASSERT_EQ(fork.code, 0) << fork.err;
    const auto told = nlohmann::json::parse(fork.out);
    go_on(victim, told.at("home_pid"), there().seen_from_here(told.at("pid")));
  }
  std::vector<std::string> refused(const Declared& declared) const override {
    std::vector<std::string> more = declared.refused_by_move;
    more.insert(more.end(), declared.refused_by_fork.begin(), declared.refused_by_fork.end());
    return refused_with(declared, std::move(more));
  }
  virtual void go_on(VictimProcess& victim, pid_t home, pid_t guest) const {
    victim.continue_as_copy(home, guest);
  }
};

// Saved and going on, and copied: the copy is killed, the original passes. What those two have in
// common, such as messages of System V, is the original's alone once the copy has ended there too.
class Original : public Fork {
  void take(VictimProcess& victim) override {
    const Finished save = telefork({"save", "--keep", std::to_string(victim.pid()), image()});
    ASSERT_EQ(save.code, 0) << save.err;
    Fork::take(victim);
  }
  void go_on(VictimProcess&, pid_t home, pid_t guest) const override {
    kill_tree(guest);
    end_stranger(home);
    await_stranger(guest);
  }
  bool restores() const override { return false; }
};

// And comes back to its own pid: what it is then is what it was.
class ThereAndBack : public Move {
 protected:
  void take(VictimProcess& victim) override {
    Move::take(victim);
    if (HasFatalFailure() || !victim.declared().clashes.empty()) return;
    if (!may_come_home(victim.declared())) return;
    std::vector<std::string> refused = victim.declared().refused_by_home;
    const bool by_ids = geteuid() != 0 && refused.empty() && needs_ids(victim.visible_pid());
    if (by_ids) refused.emplace_back("may not be chosen here by this user");
    const Finished home = telefork({"home", std::to_string(victim.pid())});
    // Threads whose sleep was over before they were called need none.
    if (by_ids && home.code == 0 && !needs_ids(victim.pid())) refused.clear();
    if (!refused.empty()) {
      EXPECT_EQ(home.code, kRefused) << home.err;
      for (const std::string& text : refused) {
        EXPECT_NE(home.err.find(text), std::string::npos) << home.err;
      }
      return;
    }
    if (const std::string& clash = victim.declared().clashes_at_home;
        goes_far() && !clash.empty()) {
      EXPECT_EQ(home.code, kUndone) << home.err;
      EXPECT_NE(home.err.find(clash), std::string::npos) << home.err;
      return;
    }
    ASSERT_EQ(home.code, 0) << home.err;
    victim.continue_at_home();
  }
  // A plain user may not say which file a process runs (docs/limits.md).
  std::string differences(pid_t pid, const ProcessState& before) const override {
    const std::string all = Move::differences(pid, before);
    const std::regex blank("(process [0-9]+: )*exe was [^\n]*, is [^\n]*/telefork-blank\n");
    return geteuid() == 0 ? all : std::regex_replace(all, blank, "");
  }
  // Which nothing stands for at home: those of threads, and of zombies (docs/limits.md).
  static bool needs_ids(pid_t pid) {
    if (has_threads(pid)) return true;
    const std::vector<pid_t> children = fork_test::list_descendants(pid);
    return std::any_of(children.begin(), children.end(), [](pid_t child) {
      const auto seen = fork_test::look_at(child);
      return seen && (seen->state == 'Z' || has_threads(child));
    });
  }
  static bool has_threads(pid_t pid) {
    const fs::directory_iterator tasks("/proc/" + std::to_string(pid) + "/task");
    return std::distance(begin(tasks), end(tasks)) > 1;
  }
  std::string lost(const Declared& declared) const override {
    return declared.loses.empty() ? declared.loses_at_home : declared.loses;
  }
};

// A move of which one end is killed at a step: the victim goes on here as if nothing had been, by
// itself or by `telefork resume`; or its pid ends with 125, where it was given up and may have run.
class Fault : public Move {
 protected:
  void SetUp() override {
    const std::string step = GetParam().substr(victim_name().size() + kBetween.size());
    for (Step one : steps_of_lazy_move()) {
      if (step_name(one) == step) fault_.step = one;
    }
    programs_.emplace();
    const std::string stop = "--stop-at-step " + step;
    if (is_of_keeper(fault_.step)) setenv(SteppingPrograms::kKeeper, stop.c_str(), 1);
    Move::SetUp();
    unsetenv(SteppingPrograms::kKeeper);
  }
  void TearDown() override {
    Move::TearDown();
    programs_.reset();
  }
  void run_all() {
    for (auto killed : {FaultCase::Killed::kSession, FaultCase::Killed::kKeeper}) {
      SCOPED_TRACE(killed == FaultCase::Killed::kSession ? "its session was killed"
                                                         : "its keeper was killed");
      fault_.killed = killed;
      is_over_ = false;
      was_resumed_ = false;
      run();
      if (HasFailure() || IsSkipped()) return;
    }
  }
  std::string telepad_program() const override { return programs_->telepad(); }
  std::string victim_name() const override {
    return GetParam().substr(0, GetParam().find(kBetween));
  }
  bool restores() const override { return false; }
  bool is_over() const override { return is_over_; }
  // What is seen only of a process that stands still is refused when its keeper is at work.
  void on_refused() const override { let_keepers_go(); }
  std::string differences(pid_t pid, const ProcessState& before) const override;
  void take(VictimProcess& victim) override;
  // The command has said that it is there. Whether it is held here all the same, when that is
  // settled.
  virtual bool is_held_at_last(const VictimProcess& /*victim*/) const { return false; }
  // Of a command whose keeper was killed.
  virtual int code_without_keeper() const { return kUndone; }
  const FaultCase& fault() const { return fault_; }
  bool was_resumed() const { return was_resumed_; }
  bool is_held(pid_t pid) const;

 private:
  static constexpr std::string_view kBetween = "_at_";
  void break_move(VictimProcess& victim);
  bool ends_with_session(const VictimProcess& victim) const;
  void expect_killed(VictimProcess& victim);
  void expect_lost(VictimProcess& victim);
  void expect_resumed(pid_t pid);

  FaultCase fault_{};
  bool is_over_ = false;
  bool was_resumed_ = false;
  std::optional<SteppingPrograms> programs_;
};

// Whose session was killed at work in it, or has left it to be taken up, may keep that one's pages,
// where programs map nothing by themselves (docs/limits.md).
std::string Fault::differences(pid_t pid, const ProcessState& before) const {
  std::string all = Mode::differences(pid, before);
  if (fault_.killed != FaultCase::Killed::kSession && !was_resumed_) return all;
  // Threads leave the stub in any order, and nobody is told when. There all signals are blocked, or
  // all but the one that it makes itself known by: SIGURG or SIGWINCH.
  const std::regex leaving(
      "thread [0-9]+ SigBlk was [0-9a-f]+, is "
      "f{8}(fff[0-9a-f]{5}|ffb[0-9a-f]{5}|f7f[0-9a-f]{5})\n");
  const auto patience = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (std::regex_search(all, leaving) && std::chrono::steady_clock::now() < patience) {
    fork_test::pause_between_looks();
    all = Mode::differences(pid, before);
  }
  if (std::regex_search(all, leaving)) ADD_FAILURE() << describe_threads(pid);
  const std::regex left("(process [0-9]+: )?mapping 00[0-3][0-9a-f]{5}-[^\n]* is new: [^\n]*\n");
  return std::regex_replace(all, left, "");
}

bool Fault::is_held(pid_t pid) const {
  const auto told = nlohmann::json::parse(telefork({"ps", "--json"}).out);
  for (const auto& session : told.at("sessions")) {
    if (session.at("pid") == pid && session.at("state") == "held") return true;
  }
  return false;
}

void Fault::take(VictimProcess& victim) {
  break_move(victim);
  // It may have run there, and now it is to run here.
  if (!is_over_ && is_given_up(fault_.step)) {
    EXPECT_TRUE(there().guests().empty()) << fork_test::describe_descendants();
  }
}

void Fault::break_move(VictimProcess& victim) {
  std::vector<std::string> arguments = command(victim.pid());
  arguments.insert(arguments.begin(), TELEFORK_PROGRAM);
  const FaultyMove move = move_with_fault(arguments, fault_);
  if (const std::string& clash = victim.declared().clashes; !clash.empty() && !move.held) {
    EXPECT_NE(move.end.err.find(clash), std::string::npos) << move.end.err;
    return;
  }
  ASSERT_TRUE(move.held) << "nobody came to the step: " << move.end.err;
  if (ends_with_session(victim)) return expect_killed(victim);
  if (move.end.code == 0) {
    return is_held_at_last(victim) ? expect_resumed(victim.pid()) : expect_lost(victim);
  }
  if (fault_.killed == FaultCase::Killed::kKeeper) {
    EXPECT_EQ(move.end.code, code_without_keeper()) << move.end.err;
    return;
  }
  EXPECT_EQ(move.end.code, 1) << move.end.err;
  if (is_held(victim.pid())) {
    expect_resumed(victim.pid());
  } else if (fault_.step == Step::kHollowed) {
    expect_lost(victim);
  } else {
    EXPECT_FALSE(is_given_up(fault_.step)) << "it was not held";
  }
}

void Fault::expect_resumed(pid_t pid) {
  was_resumed_ = true;
  const Finished resume = telefork({"resume", std::to_string(pid)});
  EXPECT_EQ(resume.code, 0) << resume.err;
}

bool Fault::ends_with_session(const VictimProcess& victim) const {
  const bool stands_still = fault_.step != Step::kChecked && fault_.step != Step::kAnnounced;
  const bool is_deputy = fault_.step == Step::kHollowed && !victim.declared().ends_as_deputy;
  return !victim.declared().ends_with_session.empty() && stands_still && !is_deputy &&
         fault_.killed == FaultCase::Killed::kSession;
}

void Fault::expect_killed(VictimProcess& victim) {
  EXPECT_EQ(victim.await_end(), 128 + SIGKILL);
  expect_in_limits(victim.declared().ends_with_session);
  is_over_ = true;
  empty_folder();
}

void Fault::expect_lost(VictimProcess& victim) {
  EXPECT_TRUE(may_be_lost(fault_));
  EXPECT_EQ(victim.await_end(), kLost);
  is_over_ = true;
  empty_folder();
}

std::vector<std::string> at_all_steps(const std::vector<std::string>& victims,
                                      const std::vector<Step>& steps = steps_of_move()) {
  std::vector<std::string> cases;
  for (const std::string& victim : victims) {
    for (Step step : steps) cases.push_back(victim + "_at_" + std::string(step_name(step)));
  }
  return cases;
}

// What is stopped does not leave what a dead session has left in it before it is continued.
std::vector<std::string> names_of_the_unstopped() {
  std::vector<std::string> all = names();
  std::erase_if(all, [](const std::string& name) {
    return name == "process_stopped" || name == "process_stopped_child" || name == "tree_stopped" ||
           name == "tree_stopped_first";
  });
  return all;
}

// `make soak` has the others too, of which each of its rounds takes some.
class AnyFault : public Fault {};

// Its memory follows it, however small that is, and that of those that go along with it.
template <class ModeOf>
class Lazily : public ModeOf {
  void SetUp() override {
    setenv("TELEFORK_LAZY_PROCESS_KB", "0", 1);
    setenv("TELEFORK_LAZY_MAPPING_KB", "0", 1);
    ASSERT_NO_FATAL_FAILURE(ModeOf::SetUp());
    if (geteuid() != 0) GTEST_SKIP() << "needs: root";
  }
  void TearDown() override {
    ModeOf::TearDown();
    unsetenv("TELEFORK_LAZY_PROCESS_KB");
    unsetenv("TELEFORK_LAZY_MAPPING_KB");
  }
  // As long as anything is missing that can be seen (VmFlags: um).
  std::string differences(pid_t pid, const ProcessState& before) const override {
    for (;;) {
      const std::string all = ModeOf::differences(pid, before);
      if (all.find(" um ") == std::string::npos || !fork_test::look_at(pid)) return all;
      fork_test::pause_between_looks();
    }
  }
};
using Lazy = Lazily<Move>;
// What is stopped, or has a child that is, waits for that until it is continued (docs/limits.md).
class LazyThereAndBack : public Lazily<ThereAndBack> {
  bool may_come_home(const Declared& /*declared*/) const override {
    return victim_name().find("stopped") == std::string::npos;
  }
};

// Until all has come there it is held here when either end is lost, and its parent sees nothing.
class LazyFault : public Lazily<Fault> {
  bool is_held_at_last(const VictimProcess& victim) const override {
    const auto patience = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (std::chrono::steady_clock::now() < patience) {
      if (is_held(victim.pid())) return true;
      const auto seen = fork_test::look_at(victim.pid());
      if (!seen || seen->state == 'Z') return false;
      fork_test::pause_between_looks();
    }
    ADD_FAILURE() << "it is neither held nor has it ended";
    return false;
  }
  // Before anything stands still the connection for its pages is opened.
  int code_without_keeper() const override { return fault().step == Step::kChecked ? 1 : kUndone; }
  bool may_say(const std::string& line) const override {
    return was_resumed() && line.find(" memory had not all come there") != std::string::npos;
  }
};

// The original will be killed with all its children, and with what keeps the copy's memory.
class LazyFork : public Lazily<Fork> {
  // With those of its children.
  static std::size_t watched_mappings(pid_t first) {
    std::vector<pid_t> pids = fork_test::list_descendants(first);
    pids.push_back(first);
    std::size_t count = 0;
    for (const pid_t pid : pids) {
      const std::string smaps = fork_test::slurp("/proc/" + std::to_string(pid) + "/smaps");
      for (auto at = smaps.find(" um "); at != std::string::npos; at = smaps.find(" um ", at + 1)) {
        ++count;
      }
    }
    return count;
  }
  void go_on(VictimProcess& victim, pid_t home, pid_t guest) const override {
    while (watched_mappings(guest) > watched_mappings(victim.pid())) {
      fork_test::pause_between_looks();
    }
    Fork::go_on(victim, home, guest);
  }
};

bool has_children(pid_t pid) {
  const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
  for (const auto& task : fs::directory_iterator(tasks)) {
    if (!fork_test::slurp(task.path() / "children").empty()) return true;
  }
  return false;
}

// Its memory goes ahead of it. What is not alone goes as ever.
class Live : public Move {
  std::vector<std::string> command(pid_t pid) const override {
    std::vector<std::string> all = Move::command(pid);
    if (!has_children(pid)) all.insert(all.end(), {"--mode", "live"});
    return all;
  }
};

// The same of a copy.
class LiveFork : public Fork {
  std::vector<std::string> command(pid_t pid) const override {
    std::vector<std::string> all = Fork::command(pid);
    if (!has_children(pid)) all.insert(all.end(), {"--mode", "live"});
    return all;
  }
};

std::string name_of(const testing::TestParamInfo<std::string>& info) { return info.param; }

#define VICTIMS_MODE(mode)        \
  TEST_P(mode, Passes) { run(); } \
  INSTANTIATE_TEST_SUITE_P(Victims, mode, testing::ValuesIn(names()), name_of)

VICTIMS_MODE(None);
VICTIMS_MODE(File);
VICTIMS_MODE(Move);
VICTIMS_MODE(Fork);
VICTIMS_MODE(ThereAndBack);
VICTIMS_MODE(Lazy);
VICTIMS_MODE(Live);

// What these are made of passes in the modes above: a fixed tenth, and the others in `make soak`.
#define VICTIMS_MODE_OF_TENTH(mode)                                                           \
  TEST_P(mode, Passes) { run(); }                                                             \
  INSTANTIATE_TEST_SUITE_P(Victims, mode, testing::ValuesIn(names_of_tenth(false)), name_of); \
  INSTANTIATE_TEST_SUITE_P(Soak, mode, testing::ValuesIn(names_of_tenth(true)), name_of)

VICTIMS_MODE_OF_TENTH(Original);
VICTIMS_MODE_OF_TENTH(LazyFork);
VICTIMS_MODE_OF_TENTH(LiveFork);
VICTIMS_MODE_OF_TENTH(LazyThereAndBack);

TEST_P(Fault, LeavesItHereOrLost) { run_all(); }
INSTANTIATE_TEST_SUITE_P(Victims, Fault,
                         testing::ValuesIn(at_all_steps({"thread_hundred", "memory_shared",
                                                         "fd_epoll", "tree_pipes"})),
                         name_of);
TEST_P(LazyFault, LeavesItHereOrLost) { run_all(); }
INSTANTIATE_TEST_SUITE_P(Victims, LazyFault,
                         testing::ValuesIn(at_all_steps({"memory_private", "tree_pipes"},
                                                        steps_of_lazy_move())),
                         name_of);
TEST_P(AnyFault, LeavesItHereOrLost) { run_all(); }
INSTANTIATE_TEST_SUITE_P(Soak, AnyFault, testing::ValuesIn(at_all_steps(names_of_the_unstopped())),
                         name_of);

}  // namespace
}  // namespace victims
