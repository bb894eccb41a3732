// What /proc tells of a process and of all that has come of it, so that two moments can be
// compared.
//
//     ProcessState before(pid);
//     ...
//     EXPECT_EQ(ProcessState(pid).differences_from(before), "");
//
// Left out is what moves by itself (times, counters, resident memory) and what is another thing at
// every place (numbers of inodes, the standard streams, parent, process group and session of the
// first). A child is looked at when it sleeps, is stopped or has ended.
#pragma once

#include <map>
#include <string>

#include <sys/types.h>

namespace victims {

class ProcessState {
 public:
  explicit ProcessState(pid_t pid);
  // A line for each that is not the same, or nothing.
  std::string differences_from(const ProcessState& before) const;

 private:
  ProcessState() = default;
  void add_process(pid_t pid);
  void add_child(pid_t child, const std::string& first);
  void add_map(const std::string& folder);
  void add_descriptors(const std::string& folder);
  void add_threads(const std::string& folder);

  std::map<std::string, std::string> values_;
};

// Of each thread its mask and where it waits, a line each.
std::string describe_threads(pid_t pid);

}  // namespace victims
