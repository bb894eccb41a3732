// Image files. A file that is being written has no name until it is whole:
//
//     FileSink sink(path);
//     ...sink.write(bytes)...
//     sink.commit();            fsync, then the name, then fsync of the directory
//
// Without commit() nothing is left behind, also when the process is killed (O_TMPFILE where the
// file system has it). A file of that name is replaced at once, or not at all; of a symbolic link
// it is the file that the link leads to, whether there is one or not. Where PATH is no
// regular file (a FIFO, /dev/stdout) it is written in place; a FIFO must have its reader, and while
// that does not read `while_waiting` is called now and then, and may throw. An image holds the
// memory of a process: its mode is 0600.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "base/unique_fd.h"

namespace telefork::net {

class FileSink {
 public:
  explicit FileSink(std::string path, std::function<void()> while_waiting = {});
  FileSink(const FileSink&) = delete;
  FileSink& operator=(const FileSink&) = delete;
  ~FileSink();

  // Errors name the path; a full disk is kResources with ENOSPC.
  void write(std::span<const std::byte> bytes);
  void commit();

 private:
  enum class State {
    kNameless,   // O_TMPFILE: gone when closed
    kTemporary,  // has a temporary name, removed when not committed
    kInPlace,    // not a regular file
    kCommitted,  // has its name; nothing to do
  };
  void open_nameless_or_temporary();
  void sync() const;
  void wait_for_room();

  std::string path_;    // as it was given
  std::string target_;  // where links lead from there
  std::function<void()> while_waiting_;
  std::string directory_;
  std::string temporary_;
  UniqueFd fd_;
  State state_ = State::kInPlace;
};

class FileSource {
 public:
  explicit FileSource(std::string path);
  // All of `bytes`, or kCorrupt: a file that ends too early is damaged.
  void read(std::span<std::byte> bytes);
  // Whether nothing follows. It may have to read one byte ahead to know.
  bool at_end();

 private:
  std::size_t read_some(std::span<std::byte> bytes);

  std::string path_;
  UniqueFd fd_;
  std::optional<std::byte> ahead_;
};

}  // namespace telefork::net
