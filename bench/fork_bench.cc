// telefork_fork() beside fork(), in one process and by turns: how long each holds up the parent,
// and when the child's first instruction runs.
//
//     fork_bench --node NODE --transport NAME --size 1M [--pages small|huge] [--trials N]
//                [--mode eager|lazy] --folder DIR [--watch PID,PID...]
//
// Before every call all memory is made the parent's own again, so that each fork finds the page
// tables as a process that has been working leaves them. The first telefork opens the link; it is
// told apart ("opening") and is in no median.
//
// The child reads the clock as its first instruction, and in mode lazy again when it has read every
// page of its memory once, and leaves that in a file in DIR, which it opens itself; the clocks are
// those of one kernel. With --watch, the peak resident sizes of telefork's
// processes under these pids are sampled while the memory travels; samples of time are then of no
// use, since looking costs a core.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <telefork/telefork.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "measure.h"
#include "processes.h"

namespace telefork::bench {
namespace {

constexpr int kPollMicroseconds = 20'000;
// Long enough in the child for one more look at everybody's memory.
constexpr int kLingerMicroseconds = 200'000;
// The next session is made ready beside the one that runs, and what ended is cleaned up.
constexpr int kSettleMicroseconds = 50'000;

struct Times {
  double held;               // the call, in the parent
  double first_instruction;  // from the call to the child's first instruction
  double touched;            // from the call until the child has read all of its memory
  double ended;              // from the call to the child's status
};

struct Series {
  std::vector<double> held, first_instruction, touched, ended;
  void add(const Times& times) {
    held.push_back(times.held);
    first_instruction.push_back(times.first_instruction);
    touched.push_back(times.touched);
    ended.push_back(times.ended);
  }
  void put(const std::string& name, Record& record) const {
    record.samples(name + "_held_ms", held);
    record.samples(name + "_first_instruction_ms", first_instruction);
    record.samples(name + "_touched_ms", touched);
    record.samples(name + "_ended_ms", ended);
  }
};

class ForkBench {
 public:
  explicit ForkBench(const Arguments& arguments)
      : node_(arguments.text("node")),
        report_(arguments.text("folder") + "/first-instruction"),
        memory_(arguments.size("size"), arguments.pages()),
        lazy_(arguments.text("mode", "eager") == "lazy") {
    options_.mode = lazy_ ? TELEFORK_MODE_LAZY : TELEFORK_MODE_EAGER;
    std::string pids = arguments.text("watch");
    for (char* at = pids.data(); *at != '\0'; at += *at == ',') {
      watched_.push_back(static_cast<pid_t>(std::strtol(at, &at, 10)));
    }
  }

  Times local() {
    return measure([] { return fork(); });
  }
  Times away() {
    return measure([this] { return telefork_fork_with(node_.c_str(), &options_); });
  }
  const std::map<std::string, double>& peaks() const { return peaks_; }

 private:
  template <class Call>
  Times measure(Call call) {
    usleep(kSettleMicroseconds);
    memory_.own_again();
    unlink(report_.c_str());
    const double before = now();
    const pid_t pid = call();
    const double after = now();
    if (pid == 0) be_child(after);
    if (pid < 0) fail(telefork_error()[0] != '\0' ? telefork_error() : "fork");
    wait_for(pid);
    const double ended = now();
    const Report report = read_report();
    return {after - before, report.first - before, report.touched - before, ended - before};
  }

  struct Report {
    double first, touched;
  };

  [[noreturn]] void be_child(double first) {
    if (lazy_) touch_all();
    const Report report{first, now()};
    int fd = open(report_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, &report, sizeof report) != sizeof report) _exit(1);
    if (!watched_.empty()) usleep(kLingerMicroseconds);
    _exit(0);
  }

  void wait_for(pid_t pid) {
    int status = 0;
    if (watched_.empty()) {
      if (waitpid(pid, &status, 0) != pid) fail_errno("waitpid");
    } else {
      while (waitpid(pid, &status, WNOHANG) == 0) {
        keep_peaks(peaks_, peak_resident(watched_));
        usleep(kPollMicroseconds);
      }
    }
    if (status != 0) fail("the child ended with wait status " + std::to_string(status));
  }

  // In their order.
  void touch_all() const {
    constexpr std::size_t kPage = 4096;
    for (std::size_t at = 0; at < memory_.size(); at += kPage) {
      static_cast<void>(*const_cast<const volatile std::byte*>(memory_.data() + at));
    }
  }

  Report read_report() const {
    Report report{};
    int fd = open(report_.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, &report, sizeof report) != sizeof report) fail_errno(report_);
    close(fd);
    return report;
  }

  std::string node_;
  std::string report_;
  TouchedMemory memory_;
  bool lazy_;
  telefork_options options_ = TELEFORK_OPTIONS_INIT;
  std::vector<pid_t> watched_;
  std::map<std::string, double> peaks_;
};

void run(const Arguments& arguments) {
  ForkBench bench(arguments);
  const Times opening = bench.away();
  bench.local();
  Series local;
  Series away;
  for (long i = 0; i < arguments.number("trials", 5); ++i) {
    if (i % 2 == 0) local.add(bench.local());
    away.add(bench.away());
    if (i % 2 != 0) local.add(bench.local());
  }
  Record record("fork");
  record.text("node", arguments.text("transport"));
  record.text("pages", arguments.text("pages", "small"));
  record.text("mode", arguments.text("mode", "eager"));
  record.number("size", static_cast<double>(arguments.size("size")));
  record.number("mappings", count_mappings());
  record.number("opening_held_ms", opening.held * 1e3);
  record.number("opening_first_instruction_ms", opening.first_instruction * 1e3);
  if (arguments.has("watch")) {
    for (const auto& [name, peak] : bench.peaks()) record.number("peak_bytes " + name, peak);
  } else {
    local.put("local", record);
    away.put("away", record);
  }
  record.print();
}

}  // namespace
}  // namespace telefork::bench

int main(int argc, char** argv) {
  // What the caller left open could not travel.
  close_range(3, ~0U, 0);
  telefork::bench::run(
      {argc, argv, {"node", "transport", "size", "pages", "mode", "trials", "folder", "watch"}});
  return 0;
}
