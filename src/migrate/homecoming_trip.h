// For the tests of restore/homecoming.h: takes a real process there and back on this machine, in a
// pid namespace as its guest, which is what a node does where its ids are taken.
//
//     TEST(Homecoming, KeepsTheUmask) {
//       expect_comes_home([](Away& away) {      // runs in a forked child
//         ::umask(0123);
//         VERIFY(away.leave());                 // from here on it is the guest
//         ::umask(0321);
//         away.come_home();                     // from here on it is at home again
//         VERIFY(::umask(0) == 0321);
//       });
//     }
//
// Its own descriptors are 0, 1 and 2, with which it talks to the test, and kSession, which stays
// at home. The image of the way home has only pages that are not as they are here.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "migrate/round_trip.h"
#include "restore/homecoming.h"
#include "tracee/parked_process.h"

namespace telefork::migrate {

class Away {
 public:
  static constexpr int kSession = 3;

  // True in the guest; false where it was rolled back and nothing has happened.
  bool leave();
  // Of the thread that left.
  void come_home();
};

// Where pages wait, and who receives them.
enum class Way {
  kFile,      // almost all wait in the memory file
  kProcess,   // all that can wait in the process; written there from here, with no UFFDIO_MOVE
  kReceived,  // the same, received by the process itself
  kMixed,     // likewise, but scattered pages wait in the memory file
};
inline constexpr Way kWays[] = {Way::kFile, Way::kProcess, Way::kReceived, Way::kMixed};

// The parts of it.
class Journey {
 public:
  explicit Journey(const std::function<void(Away&)>& victim);
  Journey(const Journey&) = delete;
  Journey& operator=(const Journey&) = delete;
  // Kills and reaps what is left.
  ~Journey();

  pid_t pid() const { return pid_; }
  // Parks it, and makes a guest of it, which runs until it wants to come home.
  void leave();
  // The image of the way home; the guest is gone then.
  void capture_guest();
  tracee::ParkedProcess& parked() { return *parked_; }
  std::vector<std::byte>& image() { return image_; }
  restore::HomecomingSettings settings() const;
  // Throws what Homecoming throws.
  void come_home(restore::HomecomingSettings settings);
  void come_home(Way way);
  // What is done when so many bytes of payloads have been sent, of those that travel raw.
  void interrupt_at(std::size_t bytes, std::function<void()> action);
  void roll_back();
  // A hash of all memory of its own, the stub aside.
  std::uint64_t checksum() const;
  // Where nobody traces it: what it exits with, and what it said on stderr.
  int finish(std::string* said);

 private:
  void make_guest(const std::vector<std::byte>& image);
  void end_guest();
  void blank_rseq(RemotePtr at, std::vector<std::byte>& page) const;

  pid_t pid_ = 0;
  pid_t caller_ = 0;
  UniqueFd session_;     // our end
  UniqueFd streams_[3];  // the victim's ends
  UniqueFd go_, told_, talk_;
  std::unique_ptr<tracee::ParkedProcess> parked_;
  pid_t guest_ = 0;
  std::optional<restore::PidNamespace> space_;
  std::optional<restore::ArrivedFiles> arrived_;
  std::optional<capture::Origins> origins_;
  void come_home_raw(restore::HomecomingSettings settings);
  void feed(const UniqueFd& socket, std::span<const std::byte> payloads) const;

  std::vector<std::byte> image_;
  std::vector<kernel::Vma> home_;
  std::map<int, std::uint32_t> sent_fds_;
  std::size_t interrupted_at_ = 0;
  std::function<void()> interruption_;
};

// All of it, each way; the victim must end with 0.
void expect_comes_home(const std::function<void(Away&)>& victim);
// It is refused by an Error that contains `why`, and everything is as it was.
void expect_stays_away(const std::function<void(Away&)>& victim, const std::string& why,
                       const std::function<void(Journey&)>& at_home = {});

}  // namespace telefork::migrate
