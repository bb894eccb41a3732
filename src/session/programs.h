// Where the programs of one installation lie: all of them come from it, never from PATH.
//
//     PREFIX/bin/telefork, telepad        PREFIX/lib/.../libtelefork.so
//     PREFIX/libexec/telefork/telefork-agent, -keeper, -blank, -deputy, -init, -greeter
#pragma once

#include <string>

namespace telefork::session {

struct Programs {
  std::string telepad;
  std::string agent;
  std::string keeper;
  std::string blank;
  std::string deputy;
  std::string init;
  std::string greeter;
};

// Of the installation that the running program belongs to. Throws kUnsupported where one is
// missing, naming its path.
Programs find_programs();

}  // namespace telefork::session
