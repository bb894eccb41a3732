// What every program of telefork is told besides its arguments, from the first of these that says
// it:
//
//   TELEFORK_LEASE_STOP_MS, _KILL_MS, _HOME_MS,
//   TELEFORK_LAZY_PROCESS_KB, _MAPPING_KB,
//   TELEFORK_COMPRESS,
//   TELEFORK_KEEP_MEMORY_KB, _IMAGES, _SECONDS,
//   TELEFORK_SSH, TELEFORK_SSH_TELEPAD              the environment
//   ~/.config/telefork/config.toml                  the user ($XDG_CONFIG_HOME where it is set)
//   /etc/telefork/telepad.toml                      the machine
//
//   listen = "10.0.0.7:7335"                        # or several: ["10.0.0.7", "[fd00::7]"]
//   [lease]                                         # session/lease.h
//   stop_ms = 10000
//   kill_ms = 60000
//   home_ms = 90000
//   [lazy]                                          # session/laziness.h
//   process_kb = 16384                              # where it is said, of a move and of a tree too
//   mapping_kb = 1024
//   [link]                                          # net/compression.h
//   compress = "auto"                               # or none, lz4, zstd: of what goes by TCP
//   [keep]                                          # session/kept_images.h: of a telepad
//   memory_kb = 1048576                             # 0: nothing is kept
//   images = 8
//   seconds = 300
//   [ssh]                                           # session/node_connector.h
//   program = "ssh"
//   telepad = "telepad"
#pragma once

#include <string>
#include <vector>

#include "session/kept_images.h"
#include "session/laziness.h"
#include "session/lease.h"
#include "session/node_connector.h"

namespace telefork::app {

struct Settings {
  // Of a telepad, where --listen says nothing. The machine's file speaks of root's telepad only: a
  // user's has another key, and could not have the same port.
  std::vector<std::string> listen;
  session::Lease lease;  // not checked: flags come over it
  session::Laziness laziness;
  session::KeepLimits keep;
  session::NodeAccess access;
};

// The files in the order in which they count; those that do not exist say nothing.
std::vector<std::string> settings_files();

// Throws kUsage for a file or variable that is not understood; it names file and line, or variable.
// An unknown key is not understood either.
Settings read_settings();

}  // namespace telefork::app
