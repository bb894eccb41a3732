// The link to a child is lost while the child runs: the pid at home ends when the child is known
// not to, and not before.
//
// The child of these tests has descendants (a child, and one of that in a session of its own), and
// none of them ends by itself.
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

namespace fork_test {
namespace {

namespace fs = std::filesystem;

constexpr char kRegistry[] = "/run/telefork/sessions";

struct Settings {
  const char* name;
  const char* value;
};
using Lease = std::vector<Settings>;
// The rest of each is as it always is: it does not come to it.
const Lease kShortAtHome = {{"TELEFORK_LEASE_STOP_MS", "500"},
                            {"TELEFORK_LEASE_KILL_MS", "2000"},
                            {"TELEFORK_LEASE_HOME_MS", "4000"}};
const Lease kNotSoLong = {{"TELEFORK_LEASE_STOP_MS", "500"},
                          {"TELEFORK_LEASE_KILL_MS", "2000"},
                          {"TELEFORK_LEASE_HOME_MS", "20000"}};
const Lease kShortStop = {{"TELEFORK_LEASE_STOP_MS", "500"}};

// 0 when it is gone.
char state_of(pid_t pid) {
  const std::string text = slurp("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t close = text.rfind(')');
  return close == std::string::npos ? '\0' : text[close + 2];
}

pid_t number_after(const std::string& text, const std::string& key) {
  const std::size_t at = text.find(key);
  return at == std::string::npos ? 0 : std::atoi(text.c_str() + at + key.size());
}

pid_t status_number(pid_t pid, const char* key) {
  return number_after(slurp("/proc/" + std::to_string(pid) + "/status"), key);
}

[[noreturn]] void pause_for_ever() {
  for (;;) pause();
}

// There is no event for what these wait for.
testing::AssertionResult comes_true(const std::function<bool()>& condition) {
  constexpr timespec kPause{0, 2'000'000};
  for (int tries = 0; tries < 20'000; ++tries) {
    if (condition()) return testing::AssertionSuccess();
    nanosleep(&kPause, nullptr);
  }
  return testing::AssertionFailure() << "it does not come\n" << describe_descendants();
}

class ALostChild : public AFork {
 protected:
  void SetUp() override {
    forget_killed_sessions_ = true;
    AFork::SetUp();
  }
  void TearDown() override {
    AFork::TearDown();
    set_lease({});
  }
  // Of agents and telepads that are started after it.
  static void set_lease(const Lease& lease) {
    for (const char* name :
         {"TELEFORK_LEASE_STOP_MS", "TELEFORK_LEASE_KILL_MS", "TELEFORK_LEASE_HOME_MS"}) {
      unsetenv(name);
    }
    for (const Settings& one : lease) setenv(one.name, one.value, 1);
  }
  void use_lease(const Lease& lease) {
    set_lease(lease);
    if (telepad_ < 0) return;
    stop_telepad(SIGTERM);
    start_telepad();
  }

  // Throws where it does not come so far: signals to processes that are not there, by the number 0,
  // would reach this one's whole group. It forks, waits for the child and says how that ended and
  // who is there then; then `after`.
  void start_program(const Body& after = {}, const Body& of_child = pause_for_ever) {
    program_ = start([=, this] {
      const pid_t pid = fork_child(node(), [&] {
        start_descendants();
        of_child();
        return 0;
      });
      make_file(path("pid"), std::to_string(pid));
      make_file(path("called"));
      const std::string end = end_of(pid);
      std::string left;
      for (pid_t one : family()) {
        if (state_of(one) != '\0') left += " " + std::to_string(one);
      }
      write_all(1, end + (left.empty() ? "; nobody is left" : "; left:" + left));
      if (after) after();
    });
    const bool is_away = comes_true([&] {
      return fs::exists(path("called")) && fs::exists(path("family is there")) &&
             number_after(registered("role away"), "\nguest ") == family().front() &&
             registered("role away").find("state away") != std::string::npos;
    });
    if (!is_away) throw std::runtime_error("it is not away");
    pid_ = std::stoi(slurp(path("pid")));
    guest_ = family().front();
    keeper_ = status_number(guest_, "PPid:");
    session_ = status_number(pid_, "TracerPid:");
    if (keeper_ <= 1 || session_ <= 1) throw std::runtime_error("it has ended already");
  }

  // The registry's entry with this line.
  static std::string registered(const std::string& line) {
    std::error_code missing;
    for (const auto& entry : fs::directory_iterator(kRegistry, missing)) {
      const std::string text = "\n" + slurp(entry.path());
      if (text.find("\n" + line + "\n") != std::string::npos) return text;
    }
    return "";
  }

  // The child, its child, and that one's.
  std::vector<pid_t> family() const {
    std::vector<pid_t> pids;
    std::istringstream text(slurp(path("family")));
    for (pid_t pid = 0; text >> pid;) pids.push_back(pid);
    return pids;
  }

  pid_t telepad() const { return status_number(keeper_, "PPid:"); }
  bool runs(pid_t pid) const { return state_of(pid) == 'S' || state_of(pid) == 'R'; }

  Program program_;
  pid_t pid_ = 0;      // at home
  pid_t session_ = 0;  // the process that serves it there
  pid_t keeper_ = 0;
  pid_t guest_ = 0;

 private:
  void start_descendants() const {
    const pid_t self = getpid();
    const pid_t child = fork();
    if (child > 0) return await_file(path("family is there"));
    const pid_t below = fork();
    if (below == 0) {
      setsid();
      pause_for_ever();
    }
    make_file(path("family"),
              std::to_string(self) + " " + std::to_string(getpid()) + " " + std::to_string(below));
    make_file(path("family is there"));
    pause_for_ever();
  }
};

std::string name_of_node(const testing::TestParamInfo<std::string>& kind) { return kind.param; }

INSTANTIATE_TEST_SUITE_P(On, ALostChild, testing::Values("local", "unix", "tls"), name_of_node);

TEST_P(ALostChild, HasEndedWithAllItsDescendantsWhenItsPidEndsBecauseTheKeeperWasKilled) {
  start_program([this] { write_all(1, "; then " + end_of(fork_child(node(), [] { return 7; }))); });
  kill(keeper_, SIGKILL);
  const Outcome outcome = finish(program_);
  EXPECT_EQ(outcome.out, exited(125) + "; nobody is left; then " + exited(7));
  EXPECT_TRUE(outcome.err.starts_with("telefork: ")) << outcome.err;
}

TEST_P(ALostChild, EndsItsPidWhenKeeperAndTelepadWereKilled) {
  const bool own = GetParam() == "local";
  if (!own) use_lease(kShortAtHome);
  start_program();
  // None of them sees the other one go.
  const pid_t telepad = this->telepad();
  kill(telepad, SIGSTOP);
  kill(keeper_, SIGSTOP);
  kill(keeper_, SIGKILL);
  kill(telepad, SIGKILL);
  if (!own) {
    stop_telepad(SIGKILL);
    EXPECT_TRUE(comes_true([] { return !registered("state unknown").empty(); }));
    EXPECT_TRUE(runs(pid_)) << "the pid ended before the lease was over";
  }
  const Outcome outcome = finish(program_);
  EXPECT_TRUE(outcome.out.starts_with(exited(125))) << outcome.out;
  EXPECT_TRUE(outcome.err.starts_with("telefork: ")) << outcome.err;
  if (own) {
    EXPECT_EQ(outcome.out, exited(125) + "; nobody is left");
  } else {
    EXPECT_NE(outcome.err.find("its lease is over"), std::string::npos) << outcome.err;
    // Nobody is left on that machine who could have ended them.
    for (pid_t one : family()) kill(one, SIGKILL);
  }
}

TEST_P(ALostChild, LetsItsPidBeKilledWhileItIsNotKnownHowItFares) {
  if (GetParam() == "local") return;  // there home always knows
  use_lease(kNotSoLong);  // whose session waits for another connection holds its streams so long
  start_program();
  kill(telepad_, SIGSTOP);
  kill(keeper_, SIGKILL);
  stop_telepad(SIGKILL);
  // By TLS it is not even known that nobody is there any more.
  EXPECT_TRUE(comes_true([] {
    return !registered("state unknown").empty() || !registered("connection_lost 1").empty();
  }));
  kill(pid_, SIGTERM);
  kill(pid_, SIGKILL);
  const Outcome outcome = finish(program_);
  EXPECT_TRUE(outcome.out.starts_with(killed(SIGKILL))) << outcome.out;
  for (pid_t one : family()) kill(one, SIGKILL);
}

TEST_P(ALostChild, IsStoppedAndThenKilledWhenNothingIsHeardFromHome) {
  use_lease(kShortAtHome);
  start_program();
  kill(session_, SIGSTOP);
  for (pid_t one : family()) {
    EXPECT_TRUE(comes_true([one] { return state_of(one) == 'T' || state_of(one) == '\0'; }));
  }
  EXPECT_EQ(state_of(session_), 'T');
  for (pid_t one : family()) {
    EXPECT_TRUE(comes_true([one] { return state_of(one) == '\0'; }));
  }
  EXPECT_TRUE(runs(pid_));
  kill(session_, SIGCONT);
  const Outcome outcome = finish(program_);
  EXPECT_EQ(outcome.out, exited(125) + "; nobody is left");
  EXPECT_NE(outcome.err.find("nothing was heard from home"), std::string::npos) << outcome.err;
}

TEST_P(ALostChild, GoesOnWhenHomeIsHeardAgainButForWhatItsUserHadStopped) {
  use_lease(kShortStop);
  start_program({}, [this] {
    await_file(path("end"));
    for (pid_t one : family()) {
      if (one != getpid()) kill(one, SIGKILL);
    }
    _exit(7);
  });
  const pid_t stopped = family()[1];
  const pid_t last = family()[2];
  kill(stopped, SIGSTOP);
  EXPECT_TRUE(comes_true([=] { return state_of(stopped) == 'T'; }));
  kill(session_, SIGSTOP);
  for (pid_t one : family()) {
    EXPECT_TRUE(comes_true([one] { return state_of(one) == 'T'; }));
  }
  kill(session_, SIGCONT);
  // They are continued in their order.
  EXPECT_TRUE(comes_true([&] { return runs(guest_) && runs(last); }));
  EXPECT_EQ(state_of(stopped), 'T');
  make_file(path("end"));
  const Outcome outcome = finish(program_);
  EXPECT_TRUE(outcome.out.starts_with(exited(7))) << outcome.out;
  EXPECT_EQ(outcome.err, "");
}

TEST_P(ALostChild, HasEndedWhenItsPidEndsBecauseTheKeeperDoesNotAnswer) {
  use_lease(kShortAtHome);
  start_program();
  kill(keeper_, SIGSTOP);
  const Outcome outcome = finish(program_);
  EXPECT_EQ(outcome.out, exited(125) + "; nobody is left");
  EXPECT_NE(outcome.err.find("nothing was heard from it"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace fork_test
