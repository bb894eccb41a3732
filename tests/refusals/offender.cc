// A process that has what cannot move: it commits the offences that it is told, says "ready PID"
// and waits for the end of its stdin. 77: this machine lacks what it says.
//
//     offender OFFENCE...
//     offender --refusal OFFENCE       prints "SUBJECT|WHY|save", as it is to be refused; "fork" in
//                                      the place of "save" where a save is not
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <unistd.h>

#include "offences.h"

namespace {

char pid_as_seen_outside[16];

void stay() {
  std::printf("ready %s\n", pid_as_seen_outside);
  std::fflush(stdout);
  char byte = 0;
  [[maybe_unused]] const ssize_t n = read(STDIN_FILENO, &byte, 1);
  _exit(n == 0 ? 42 : 1);
}

void commit(const char* name) {
  const offences::Offence* offence = offences::find(name);
  if (offence == nullptr) std::exit(2);
  if (offence->commit()) return;
  std::printf("needs: %s\n", offence->needs);
  std::fflush(stdout);
  _exit(77);
}

// As /proc says it: in a new pid namespace it is still the old one's.
void note_pid() {
  [[maybe_unused]] const ssize_t n =
      readlink("/proc/self", pid_as_seen_outside, sizeof pid_as_seen_outside - 1);
}

}  // namespace

int main(int argc, char** argv) {
  bool without_leader = false;
  if (argc == 3 && std::string_view(argv[1]) == "--refusal") {
    const offences::Offence* offence = offences::find(argv[2]);
    if (offence == nullptr) return 2;
    std::printf("%s|%s|%s", offence->subject, offence->why, offence->of_a_save ? "save" : "fork");
    return 0;
  }
  note_pid();
  for (int i = 1; i < argc; ++i) {
    commit(argv[i]);
    if (std::string_view(argv[i]) == "pid_namespace") note_pid();
    without_leader |= std::string_view(argv[i]) == "dead_leader";
  }
  if (without_leader) offences::go_on_without_leader(stay);
  stay();
}
