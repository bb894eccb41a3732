// What linking with libtelefork costs a program that never calls it (startup_subject.cc).
//
//     startup_bench [--trials N] [--work-trials N] --programs DIR
//
// Runs the three builds by turns: from posix_spawn to the status, and how long allocations, opens
// and forks take in them.
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <string>
#include <vector>

#include "measure.h"

extern char** environ;

namespace telefork::bench {
namespace {

constexpr std::array<const char*, 3> kBuilds = {"plain", "empty", "linked"};

double time_of_run(const std::string& program) {
  char* arguments[] = {const_cast<char*>(program.c_str()), nullptr};
  const double start = now();
  pid_t pid = 0;
  errno = posix_spawn(&pid, program.c_str(), nullptr, nullptr, arguments, environ);
  if (errno != 0) fail_errno(program);
  int status = 0;
  if (waitpid(pid, &status, 0) != pid || status != 0) fail(program + " failed");
  return now() - start;
}

std::string output_of(const std::string& command) {
  std::FILE* pipe = popen(command.c_str(), "re");
  char line[256] = "";
  if (pipe == nullptr || std::fgets(line, sizeof line, pipe) == nullptr || pclose(pipe) != 0) {
    fail(command);
  }
  return line;
}

struct Build {
  std::string program;
  int threads = 0, fds = 0, mappings = 0, kilobytes = 0;
  std::vector<double> start, allocations, opens, forks;

  void describe() {
    if (std::sscanf(output_of(program + " describe").c_str(),
                    "threads %d fds %d mappings %d private %d", &threads, &fds, &mappings,
                    &kilobytes) != 4) {
      fail(program + " describe");
    }
  }
  void work() {
    double malloc_time = 0, open_time = 0, fork_time = 0;
    if (std::sscanf(output_of(program + " work").c_str(), "malloc %lf open %lf fork %lf",
                    &malloc_time, &open_time, &fork_time) != 3) {
      fail(program + " work");
    }
    allocations.push_back(malloc_time);
    opens.push_back(open_time);
    forks.push_back(fork_time);
  }
  void print(const char* name) const {
    Record record("startup");
    record.text("build", name);
    record.number("threads", threads);
    record.number("fds", fds);
    record.number("mappings", mappings);
    record.number("private_kb", kilobytes);
    record.samples("start_ms", start);
    record.samples("malloc_ms", allocations);
    record.samples("open_ms", opens);
    record.samples("fork_ms", forks);
    record.print();
  }
};

void run(const Arguments& arguments) {
  std::array<Build, kBuilds.size()> builds;
  for (std::size_t i = 0; i < kBuilds.size(); ++i) {
    builds[i].program = arguments.text("programs") + "/startup_" + kBuilds[i];
    builds[i].describe();
    time_of_run(builds[i].program);
  }
  for (long i = 0; i < arguments.number("trials", 200); ++i) {
    // Each is first as often as the others.
    for (std::size_t j = 0; j < builds.size(); ++j) {
      Build& build = builds[(j + static_cast<std::size_t>(i)) % builds.size()];
      build.start.push_back(time_of_run(build.program));
    }
  }
  for (long i = 0; i < arguments.number("work-trials", 5); ++i) {
    for (Build& build : builds) build.work();
  }
  for (std::size_t i = 0; i < kBuilds.size(); ++i) builds[i].print(kBuilds[i]);
}

}  // namespace
}  // namespace telefork::bench

int main(int argc, char** argv) {
  telefork::bench::run({argc, argv, {"trials", "work-trials", "programs"}});
  return 0;
}
