// Lets this machine have some huge pages of 2 MB more than there are in its pool, for as long as
// the owner lives:
//
//     SpareHugePages spare(12);
//     if (!spare.given()) GTEST_SKIP() << "needs: huge pages";
//
// How many there are to spare is a matter of the whole machine: whoever else asks meanwhile waits.
#pragma once

#include <string>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace telefork::kernel {

class SpareHugePages {
 public:
  explicit SpareHugePages(int count) : file_(::open(kPath, O_RDWR | O_CLOEXEC)) {
    char text[32] = {};
    if (!file_ || ::flock(file_.get(), LOCK_EX) != 0) return;
    if (::pread(file_.get(), text, sizeof text - 1, 0) <= 0) return;
    before_ = std::stoi(text);
    given_ = set(before_ + count);
  }
  ~SpareHugePages() { take_back(); }
  SpareHugePages(const SpareHugePages&) = delete;
  SpareHugePages& operator=(const SpareHugePages&) = delete;
  bool given() const { return given_; }
  // Nobody else has any until the owner ends.
  void take_back() {
    if (given_) given_ = !set(before_);
  }

 private:
  static constexpr const char* kPath = "/proc/sys/vm/nr_overcommit_hugepages";
  bool set(int count) const {
    const std::string text = std::to_string(count);
    return ::pwrite(file_.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size());
  }

  UniqueFd file_;
  int before_ = 0;
  bool given_ = false;
};

}  // namespace telefork::kernel
