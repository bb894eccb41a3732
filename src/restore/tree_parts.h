// What the processes of an image have in common, when it has several: contents that travelled, open
// file descriptions, sockets, shared memory, and who is who. Of one process alone it is all its
// own.
//
//     auto parts = std::make_shared<TreeParts>(live);
//     Restorer restorer(settings, parts);
//
// A description is opened when the first process takes it, and is kept here for as long as another
// one is to have it. Owned by the thread that restores.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "base/remote_ptr.h"
#include "base/unique_fd.h"
#include "image/record_source.h"
#include "restore/content_store.h"
#include "restore/files.h"
#include "restore/pipes.h"
#include "restore/ptys.h"
#include "restore/segments.h"
#include "restore/sockets.h"

namespace telefork::restore {

class Restorer;

struct TreeParts {
  explicit TreeParts(bool live) : named_memory(live), open_files(live) {}

  NamedMemory named_memory;
  ContentStore contents;
  OpenFiles open_files;
  SocketNames socket_names;
  Segments segments;
  // Of the first process, with everybody's descriptions and pipes.
  std::shared_ptr<const image::Record> files;
  std::optional<image::Record> sockets;

  struct Description {
    UniqueFd file;                     // while somebody is still to take it
    unsigned users = 0;                // how many
    Restorer* first_holder = nullptr;  // who restores what it is bound up with
  };
  std::vector<Description> descriptions;
  UniqueFd streams[3];
  std::optional<Pipes> pipes;
  Ptys ptys;
  std::optional<Sockets> opened_sockets;
  Restorer* at_work = nullptr;  // whose descriptors are being restored

  // Of a tree.
  bool is_tree = false;
  bool were_there = false;                // its processes, or some; see RestoreSettings::find_blank
  SessionTerminals* terminals = nullptr;  // RestoreSettings has it
  struct SharedArea {
    RemotePtr address;  // in each of them, from its birth; else in the holder
    std::uint64_t size = 0;
    bool no_reserve = false;
    unsigned huge_shift = 0;  // of hugetlb
    pid_t holder = 0;         // of processes that were there already: who has it by now

    // MAP_*, for who makes it.
    int flags() const;
  };
  std::map<std::uint64_t, SharedArea> shared;  // by Vma.sharedId
  std::set<pid_t> with_parents_descriptors;    // as they see themselves
  std::set<pid_t> with_parents_directories;
  std::map<pid_t, pid_t> pids;    // as the processes see themselves -> as this one sees them
  std::set<pid_t> threads;        // as they see themselves
  std::map<pid_t, pid_t> groups;  // as the image calls them -> as the processes see them
};

}  // namespace telefork::restore
