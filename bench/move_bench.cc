// telefork move: how long a program stands still, and what each step of it takes; `check` of the
// same program beside it.
//
//     move_bench --telefork PROGRAM --subject PROGRAM --node NODE --transport NAME --size 1M
//                [--threads N] [--mappings N] [--children N] [--trials N]
//                [--mode MODE] [--writes PAGES_PER_SECOND]
//                [--compress CODEC] [--bwlimit RATE]
//
// Each trial has a process of its own, which is looked at by `check`, moved, and told to end. With
// threads the floor is measured on it too, before it is moved: to stop them and read the registers,
// extended state and signal mask of each, and to begin as many threads here, where nobody traces,
// each with a stack that is mapped for it, as all of them have to be there.
// The first move is in no median. With writes the subject says itself for how long it did not run.
#include <dirent.h>
#include <fcntl.h>
#include <linux/elf.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "measure.h"

extern char** environ;

namespace telefork::bench {
namespace {

constexpr std::size_t kStackSize = 64 << 10;
constexpr std::size_t kGuardSize = 4096;

struct Child {
  pid_t pid = 0;
  int input = -1;   // its standard input, to be closed
  int output = -1;  // its standard output
};

Child start(const std::vector<std::string>& command) {
  int in[2];
  int out[2];
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) fail_errno("pipe2");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  std::vector<char*> arguments;
  for (const std::string& one : command) arguments.push_back(const_cast<char*>(one.c_str()));
  arguments.push_back(nullptr);
  Child child;
  errno = posix_spawn(&child.pid, arguments[0], &actions, nullptr, arguments.data(), environ);
  if (errno != 0) fail_errno(command[0]);
  posix_spawn_file_actions_destroy(&actions);
  close(in[0]);
  close(out[1]);
  child.input = in[1];
  child.output = out[0];
  return child;
}

void await_end(const Child& child, const std::string& what) {
  if (child.input >= 0) close(child.input);
  close(child.output);
  int status = 0;
  if (waitpid(child.pid, &status, 0) != child.pid) fail_errno("waitpid");
  if (status != 0) fail(what + " ended with wait status " + std::to_string(status));
}

// Runs it to its end -> its output.
std::string output_of(const std::vector<std::string>& command) {
  const Child child = start(command);
  std::string text;
  std::array<char, 4096> buffer;
  for (ssize_t n; (n = read(child.output, buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<std::size_t>(n));
  }
  await_end(child, command[0] + " " + command[1]);
  return text;
}

std::vector<pid_t> threads_of(pid_t pid) {
  std::vector<pid_t> threads;
  const std::string path = "/proc/" + std::to_string(pid) + "/task";
  DIR* folder = opendir(path.c_str());
  if (folder == nullptr) fail_errno(path);
  while (const dirent* entry = readdir(folder)) {
    if (entry->d_name[0] != '.') threads.push_back(std::atoi(entry->d_name));
  }
  closedir(folder);
  return threads;
}

double time_to_freeze(pid_t pid) {
  const double begun = now();
  const std::vector<pid_t> threads = threads_of(pid);
  for (pid_t tid : threads) {
    if (ptrace(PTRACE_SEIZE, tid, nullptr, nullptr) != 0) fail_errno("PTRACE_SEIZE");
    if (ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr) != 0) fail_errno("PTRACE_INTERRUPT");
  }
  static std::array<char, 16384> state;
  for (pid_t tid : threads) {
    int status = 0;
    if (waitpid(tid, &status, __WALL) != tid) fail_errno("waitpid");
    for (long set : {NT_PRSTATUS, NT_X86_XSTATE}) {
      iovec buffer = {state.data(), state.size()};
      if (ptrace(PTRACE_GETREGSET, tid, set, &buffer) != 0) fail_errno("PTRACE_GETREGSET");
    }
    if (ptrace(PTRACE_GETSIGMASK, tid, sizeof(std::uint64_t), state.data()) != 0) {
      fail_errno("PTRACE_GETSIGMASK");
    }
  }
  const double taken = now() - begun;
  for (pid_t tid : threads) ptrace(PTRACE_DETACH, tid, nullptr, nullptr);
  return taken;
}

// As pthread_create(3) maps one for a process that has none to use again, behind a page of nothing.
void* map_stack() {
  void* stack = mmap(nullptr, kGuardSize + kStackSize, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) fail_errno("mmap");
  void* usable = static_cast<std::byte*>(stack) + kGuardSize;
  if (mprotect(usable, kStackSize, PROT_READ | PROT_WRITE) != 0) fail_errno("mprotect");
  return usable;
}

void unmap_stack(void* usable) {
  munmap(static_cast<std::byte*>(usable) - kGuardSize, kGuardSize + kStackSize);
}

double time_to_begin_threads(long count) {
  pthread_barrier_t end;
  pthread_barrier_init(&end, nullptr, static_cast<unsigned>(count) + 1);
  std::vector<pthread_t> threads(static_cast<std::size_t>(count));
  std::vector<void*> stacks;
  const double begun = now();
  for (pthread_t& thread : threads) {
    stacks.push_back(map_stack());
    pthread_attr_t own;
    pthread_attr_init(&own);
    pthread_attr_setstack(&own, stacks.back(), kStackSize);
    errno = pthread_create(
        &thread, &own,
        [](void* barrier) -> void* {
          pthread_barrier_wait(static_cast<pthread_barrier_t*>(barrier));
          return nullptr;
        },
        &end);
    if (errno != 0) fail_errno("pthread_create");
    pthread_attr_destroy(&own);
  }
  const double taken = now() - begun;
  pthread_barrier_wait(&end);
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
  for (void* stack : stacks) unmap_stack(stack);
  pthread_barrier_destroy(&end);
  return taken;
}

struct Series {
  std::map<std::string, std::vector<double>> times;  // by the name in the record
  std::vector<std::string> order;

  void add(const std::string& name, double seconds) {
    std::vector<double>& samples = times[name];
    if (samples.empty()) order.push_back(name);
    samples.push_back(seconds);
  }
};

class MoveBench {
 public:
  explicit MoveBench(const Arguments& arguments)
      : telefork_(arguments.text("telefork")),
        node_(arguments.text("node")),
        mode_(arguments.text("mode", "eager")),
        compress_(arguments.text("compress", "")),
        bwlimit_(arguments.text("bwlimit", "")),
        threads_(arguments.number("threads", 0)),
        writes_(arguments.number("writes", 0)),
        subject_{arguments.text("subject"),
                 std::to_string(arguments.size("size") >> 20),
                 std::to_string(threads_),
                 std::to_string(arguments.number("mappings", 0)),
                 std::to_string(arguments.number("children", 0)),
                 std::to_string(writes_)} {}

  Series trial(Series series) {
    Child child = start(subject_);
    char ready[6];
    if (read(child.output, ready, sizeof ready) != sizeof ready) fail("the subject is not ready");
    const std::string pid = std::to_string(child.pid);
    const double before = now();
    output_of({telefork_, "check", pid});
    series.add("check", now() - before);
    if (threads_ > 0) {
      series.add("floor_freeze", time_to_freeze(child.pid));
      series.add("floor_threads", time_to_begin_threads(threads_));
    }
    if (writes_ > 0 && write(child.input, "x", 1) != 1) fail_errno("write");
    const double begun = now();
    std::vector<std::string> command = {telefork_, "move", pid, node_, "--mode", mode_, "--json"};
    if (!compress_.empty()) command.insert(command.end(), {"--compress", compress_});
    if (!bwlimit_.empty()) command.insert(command.end(), {"--bwlimit", bwlimit_});
    const auto told = nlohmann::ordered_json::parse(output_of(command));
    series.add("command", now() - begun);
    series.add("freeze", told["freeze_ms"].get<double>() / 1e3);
    if (!compress_.empty()) {
      const auto sent = told["bytes_sent"].get<double>();
      percent_sent_ = 100 * (sent - told["bytes_saved"].get<double>()) / sent;
    }
    for (const auto& [step, ms] : told["steps_ms"].items()) {
      series.add("step " + step, ms.get<double>() / 1e3);
    }
    if (told.contains("watch_ms")) series.add("watch", told["watch_ms"].get<double>() / 1e3);
    if (writes_ > 0) series.add("gap", gap_of(child));
    await_end(child, "the moved process");
    return series;
  }

  // Of the bytes of the last one, by compression.
  double percent_sent() const { return percent_sent_; }

 private:
  // Its input ends, and it says so.
  static double gap_of(Child& child) {
    close(std::exchange(child.input, -1));
    std::string said;
    char byte;
    while (read(child.output, &byte, 1) == 1 && byte != '\n') said += byte;
    return std::stod(said) / 1e3;
  }

  std::string telefork_;
  std::string node_;
  std::string mode_;
  std::string compress_;
  std::string bwlimit_;
  double percent_sent_ = 100;
  long threads_;
  long writes_;
  std::vector<std::string> subject_;
};

void run(const Arguments& arguments) {
  MoveBench bench(arguments);
  bench.trial({});
  Series series;
  for (long i = 0; i < arguments.number("trials", 5); ++i) series = bench.trial(std::move(series));
  const std::string compress = arguments.text("compress", "");
  Record record(compress.empty() ? "move" : "compressed move");
  record.text("node", arguments.text("transport"));
  record.text("mode", arguments.text("mode", "eager"));
  record.number("writes", static_cast<double>(arguments.number("writes", 0)));
  if (!compress.empty()) {
    record.text("compress", compress);
    record.text("bwlimit", arguments.text("bwlimit", ""));
    record.number("percent_sent", bench.percent_sent());
  }
  record.number("size", static_cast<double>(arguments.size("size")));
  record.number("threads", static_cast<double>(arguments.number("threads", 0)) + 1);
  record.number("more_mappings", static_cast<double>(arguments.number("mappings", 0)));
  record.number("processes", static_cast<double>(arguments.number("children", 0)) + 1);
  for (const std::string& name : series.order) record.samples(name + "_ms", series.times[name]);
  record.print();
}

}  // namespace
}  // namespace telefork::bench

int main(int argc, char** argv) {
  // What the caller left open could not travel.
  close_range(3, ~0U, 0);
  telefork::bench::run({argc,
                        argv,
                        {"telefork", "subject", "node", "transport", "size", "threads", "mappings",
                         "children", "trials", "mode", "writes", "compress", "bwlimit"}});
  return 0;
}
