// For the tests of this folder: takes a real process through capture -> memory image -> restore on
// this machine, under the same pid and tids.
//
//     TEST(RoundTrip, KeepsTheUmask) {
//       expect_survives([](Self& self) {        // runs in a forked child
//         ::umask(0123);
//         self.travel();                        // back when the process has been restored
//         VERIFY(::umask(0) == 0123);
//       });
//     }
//
// Beside what a victim checks itself, every trip compares the process before and after: memory map
// with flags and resident memory, descriptors, threads, what /proc tells of it, and a second
// capture, record by record; and that the tracer's own descriptors are as before.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <capnp/message.h>
#include <sys/types.h>

#include "base/unique_fd.h"
#include "capture/capture.h"
#include "image/record_source.h"
#include "restore/restorer.h"

namespace telefork::migrate {

// The victim's side. It has stdin, stdout and stderr for talking with the test, and nothing else
// open; it is the leader of its process group.
class Self {
 public:
  // Says that all is set up; the process is captured and killed while the caller waits in read(2).
  // False in the run that proves the victim: it was left where it is.
  bool travel();
  // Only the first half, for a thread that has something else to do meanwhile.
  void say_ready();
};

[[noreturn]] void fail_victim(const char* file, int line, const char* what);

// In a victim: what the test would EXPECT. Shown with errno; async-signal-safe.
#define VERIFY(condition) \
  ((condition) ? void(0) : ::telefork::migrate::fail_victim(__FILE__, __LINE__, #condition))

using Victim = std::function<void(Self&)>;
// Changes a record on its way from capture to restore.
using EditRecord = std::function<void(image::RecordType, ::capnp::MallocMessageBuilder&)>;

inline capture::SurveyOptions options_of(capture::Purpose purpose) {
  capture::SurveyOptions options;
  options.purpose = purpose;
  return options;
}

struct TripOptions {
  capture::SurveyOptions survey = options_of(capture::Purpose::kSave);
  capture::CaptureSettings capture;
  std::function<void(restore::RestoreSettings&)> settings;  // changes the defaults
  EditRecord edit;
  // Called at the source, after the capture, before restore: to change the world meanwhile.
  std::function<void()> on_the_way;
  // Called with the restored process's pid, before it is told to go on.
  std::function<void(pid_t)> restored;
  bool hash_files = false;  // here every file is the same one
  // Freeze it only when every thread sleeps. False for threads that compute.
  bool wait_for_sleep = true;
  bool compare = true;
  bool compare_images = true;
};

// What went over the line.
struct TripReport {
  capture::MemoryTotals memory;
  std::uint64_t image_bytes = 0;
  std::vector<std::string> warnings;
  std::vector<std::string> left_home;
  double capture_ms = 0;  // freeze to last byte
  double restore_ms = 0;  // first byte to running
};

// The parts of a trip, for tests that do something in between.
class Traveller {
 public:
  explicit Traveller(const Victim& victim);
  Traveller(const Traveller&) = delete;
  Traveller& operator=(const Traveller&) = delete;
  // Kills and reaps what is left.
  ~Traveller();

  pid_t pid() const { return pid_; }
  // Throws what survey, capture and restore throw. After a capture that failed it runs on.
  void save(const TripOptions& options);
  void load(const TripOptions& options);
  // Without a second freeze: differences between before and after, a line each.
  std::vector<std::string> compare(const TripOptions& options);
  // Lets it go on. Its wait status; what it said on stderr is in `said`.
  int finish(std::string* said);
  const std::vector<std::byte>& image() const { return image_; }
  const TripReport& report() const { return report_; }

 private:
  void reap_original();

  pid_t pid_ = 0;
  UniqueFd streams_[3];  // the victim's ends
  UniqueFd go_;
  UniqueFd ready_;
  UniqueFd talk_;
  std::vector<std::byte> image_;
  std::vector<std::string> before_;
  TripReport report_;
};

// All of it: fails the test if anything differs, or the victim found something wrong.
TripReport expect_survives(const Victim& victim, const TripOptions& options = {});

// Whether this machine lets the tests choose process ids; else skip with "needs: set_tid".
bool can_choose_pids();
#define SKIP_WITHOUT_PIDS() \
  if (!::telefork::migrate::can_choose_pids()) GTEST_SKIP() << "needs: set_tid"

std::string blank_program();

// A file that is gone when its owner ends.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& content = "");
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  const std::string& path() const { return path_; }
  void write(const std::string& content) const;
  std::string read() const;

 private:
  std::string path_;
};

}  // namespace telefork::migrate
