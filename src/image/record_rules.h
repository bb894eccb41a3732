// What must be true of a stream of records beyond each being whole: their order, and that what one
// says fits what others said. Pure. Reader holds every image to it.
//
//   Header, then Process or Command, then the rest in any order, then End
//   Header, Round, VMAs, then pages and Rounds, then as ever from the Process or Tree on, with VMAs
//   anew
//   Header, Tree, then that of each of its processes that live: Process, and the rest; then End
//   Header, Tree, Process, Command, Freeze mark, Files, Sockets, Timers and Signals at most once,
//   of a process of a tree each its own, but for the Sockets with a Command: no VMA, no pages, no
//   thread, nothing that only a process has VMAs: whole pages, start < end, none overlaps another;
//   guard runs within pages: of a VMA that came before, runs rising, within it, as long as the
//   payload; dropped ones only on the way home file contents: ids not 0, each once, as long as
//   their payload; extents rising, within the file, as long as the payload together files: what a
//   description, a pipe or an epoll names by number is there; the pieces of a pipe are as long as
//   its content sockets: pairs name each other; messages are as long as their content a tree: it
//   can be made (tree_plan.h); all descriptions, pipes, sockets and contents come with its first
//   process
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "image/record_source.h"

namespace telefork::image {

class RecordRules {
 public:
  // Throws kCorrupt. The End record's totals are the Reader's to compare.
  void check(const Record& record);

 private:
  void check_order(const Record& record);
  void check_order_in_tree(const Record& record);
  void end_rounds(RecordType subject);
  void check_round(schema::Round::Reader round);
  void check_tree(schema::Tree::Reader tree);
  void check_end_of_member() const;
  void check_vma(schema::Vma::Reader vma);
  // How many pages they are.
  std::uint64_t check_runs(::capnp::List<schema::PageRun>::Reader runs) const;
  void check_pages(const Record& record);
  void check_file_content(const Record& record);
  void check_files(schema::Files::Reader files);
  void check_descriptors(schema::Files::Reader files) const;
  void check_pipe(schema::Pipe::Reader pipe) const;
  void check_pty(schema::Pty::Reader pty) const;
  void check_terminals(schema::Tree::Reader tree) const;
  void check_sockets(::capnp::List<schema::Socket>::Reader sockets) const;

  std::uint64_t count_ = 0;
  std::uint32_t seen_ = 0;                           // one bit a RecordType
  bool goes_home_ = false;                           // purpose return
  bool runs_on_ = false;                             // purpose runOn
  bool in_rounds_ = false;                           // of pages, which come first
  bool came_in_rounds_ = false;                      // and are over
  std::uint32_t rounds_ = 0;                         // that have begun
  std::vector<std::uint32_t> living_;                // of a tree: who comes in this order
  std::size_t came_ = 0;                             // of them
  std::uint32_t descriptions_ = 0;                   // of the tree
  std::map<std::uint64_t, std::uint64_t> vmas_;      // start -> end
  std::map<std::uint32_t, std::uint64_t> contents_;  // id -> bytes
};

// "image format 7 is newer than the 1 that this telefork reads"; throws kCorrupt. Its own function,
// because it must be asked before anything else of the Header is looked at.
void check_format_version(std::uint32_t version);

}  // namespace telefork::image
