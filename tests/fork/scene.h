// Real programs that fork with telefork, and what they leave behind.
//
//     TEST_P(AFork, GivesTheExitCodeToWait) {
//       Outcome outcome = run([this] {                       // in a process of its own
//         pid_t pid = fork_child(node(), [] { return 42; }); // the child: on the node
//         require_equal(end_of(pid), exited(42));
//       });
//       EXPECT_TRUE(went_well(outcome));
//     }
//
// Each test has a node, `local` or the telepad that it starts, on a unix socket or on TCP. Its
// process is a subreaper and has a mount namespace of its own where it may: when a test ends, no
// process, mount, registry entry or file is left of all that it started, or it fails.
#pragma once

#include <chrono>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/types.h>

#include "telefork/telefork.hpp"

namespace fork_test {

using Body = std::function<void()>;
using Child = std::function<int()>;

// --- Inside programs, at home and away: no gtest there -------------------------------------------

// What fails is told on stderr, and the process ends with kRequirementFailed.
constexpr int kRequirementFailed = 99;
// std::source_location, which clang 14 does not have.
class Where {
 public:
  static Where current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return Where(file, line);
  }
  const char* file_name() const { return file_; }
  int line() const { return line_; }

 private:
  Where(const char* file, int line) : file_(file), line_(line) {}
  const char* file_;
  int line_;
};
[[noreturn]] void fail_here(const std::string& what, const Where& where);
void require(bool condition, const Where& where = Where::current());
template <class A, class B>
void require_equal(const A& found, const B& expected, const Where& where = Where::current()) {
  if (found == expected) return;
  std::ostringstream text;
  text << "found " << found << ", expected " << expected;
  fail_here(text.str(), where);
}

// telefork::fork(); `child` runs on the node and its value is the child's exit code.
pid_t fork_child(const std::string& node, const Child& child,
                 const telefork::Options& options = {});
// waitpid(), and the status in words: "exited 3", "killed by 9", "stopped by 19", "continued".
std::string status_of(pid_t pid, int flags);
std::string end_of(pid_t pid);
std::string describe_status(int status);
std::string exited(int code);
std::string killed(int signal);
// All of what is there, to the end of the file.
std::string read_all(int fd);
std::string read_file(const std::string& path);
void write_all(int fd, std::string_view text);
// Wait until the file is there: false, or the process's end, when it does not come.
bool file_comes(const std::string& path);
void await_file(const std::string& path);
void make_file(const std::string& path, std::string_view text = "");
std::vector<int> open_descriptors();
// From now on the children's stdout is a pipe that ends at this program's stdin, where a child has
// /dev/null: what they say can be read at home.
void listen_to_children();
// Without its end; what there is at the end of the file.
std::string read_line(int fd = 0);
// As of the machine that both ends share; waits until it is so, and fails after a minute.
void await_gone(pid_t pid);
void await_state(pid_t pid, char state);

// --- Tests ---------------------------------------------------------------------------------------

struct Outcome {
  std::string end;  // as describe_status() has it
  std::string out;
  std::string err;
};
// Exit code 0 and silence on stderr.
testing::AssertionResult went_well(const Outcome& outcome);

// A program that was started: its stdout and stderr are pipes that end here.
struct Program {
  pid_t pid = -1;
  int out = -1;
  int err = -1;
};

struct ProgramSettings {
  bool own_session = false;  // setsid(2): ^C of a terminal of its own
  int standard_input = -1;   // -1: /dev/null
};

class AFork : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override;
  void TearDown() override;

  // The node that the test forks to.
  const std::string& node() const { return node_; }
  // A file's path in the test's own folder, which goes with the test.
  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  Program start(const Body& body, const ProgramSettings& settings = {}) const;
  // Reads until both streams end, then waits for the program.
  Outcome finish(const Program& program) const;
  // How long one may take before it counts as one that hangs.
  void set_patience(std::chrono::seconds patience) { patience_ = patience; }
  Outcome run(const Body& body, const ProgramSettings& settings = {}) const;

  // Runs `before_exec` first: limits.
  void start_telepad(const Body& before_exec = {});
  void stop_telepad(int signal);

  // `local`, `unix` or `tls`, or a node that is there already.
  virtual std::string kind_of_node() const { return GetParam(); }
  virtual std::string telepad_program() const;
  // What home calls the telepad of `tls`, which listens there.
  virtual std::string lay_cable(const std::string& listens_at) { return listens_at; }
  // A session that was killed leaves its registry entry to whoever lists the sessions next.
  bool forget_killed_sessions_ = false;

  std::string socket_;
  pid_t telepad_ = -1;

  // The first line of what that command prints; it has to work.
  std::string telefork(const std::string& arguments) const;

 private:
  void expect_telepad_as_it_was() const;

  std::string node_;
  std::string listens_at_;  // of `tls`
  std::string folder_;
  std::string mounts_;
  std::vector<std::string> telepad_descriptors_;  // when it began to listen
  std::chrono::seconds patience_{180};
};

// `usual`, or what TELEFORK_TEST_NODE says; and what a test with such a node is called.
std::vector<std::string> nodes_under_test(const std::vector<std::string>& usual);
std::string name_of_node(const testing::TestParamInfo<std::string>& info);

// What is there, or nothing.
std::string slurp(const std::string& path);
// As /proc has them: children, their children, and so on.
std::vector<pid_t> list_descendants(pid_t ancestor);
// Those of them that keep a session.
std::vector<pid_t> list_keepers(pid_t telepad);
// What a process's descriptors name, in order; a socket or pipe with its inode. None where one may
// not look.
std::vector<std::string> descriptors_of(pid_t pid);
long count_sockets(const std::vector<std::string>& descriptors);
// True when no child of this process is left, `but` one; else tells which, and kills them.
testing::AssertionResult all_processes_end(pid_t but = -1);
// What a test that has come to nothing prints: every process that descends from it, and where it
// waits.
std::string describe_descendants();

}  // namespace fork_test
