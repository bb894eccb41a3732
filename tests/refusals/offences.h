// What a process may have that cannot move: each is committed by the process itself, for real, and
// belongs to one reason of docs/limits.md.
#pragma once

#include <string_view>

namespace offences {

struct Offence {
  const char* name;
  // A move says "SUBJECT ...: WHY"; the reason is written out here, not taken from the code.
  const char* subject;
  const char* why;
  // False where this machine cannot do it; `needs` says what is missing.
  bool (*commit)();
  const char* needs = "";
  // Whether a fork is refused for it too, by an agent of the same root and namespaces.
  bool of_a_fork = true;
  // Whether `telefork save` is, which takes along what lives with the process alone.
  bool of_a_save = true;
};

// Null for a name that there is not.
const Offence* find(std::string_view name);
// All of them; the last has no name.
extern const Offence kAll[];

// "dead_leader", which nobody can commit and return: the calling thread, the first, ends, and
// another calls `done` when it has.
void go_on_without_leader(void (*done)());

}  // namespace offences
