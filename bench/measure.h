// What the benchmark programs share: the clock, memory to fork, and one JSON object on stdout.
//
// A program prints raw samples and judges nothing: report.py takes the medians of a run, puts the
// floors of the same run beside them and says which target is met.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace telefork::bench {

// Seconds of CLOCK_MONOTONIC, which processes of one kernel share.
double now();

// Ends the program: there is nothing to measure then.
[[noreturn]] void fail(const std::string& what);
[[noreturn]] void fail_errno(const std::string& what);

enum class Pages { kSmall, kHuge };

// Private anonymous memory, every page of it present, its own and different from all others.
class TouchedMemory {
 public:
  TouchedMemory(std::size_t size, Pages pages);
  ~TouchedMemory();
  TouchedMemory(const TouchedMemory&) = delete;
  TouchedMemory& operator=(const TouchedMemory&) = delete;

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  // As before any fork: no page is shared with a process that ended, none is write-protected.
  void own_again();

 private:
  std::byte* data_;
  std::size_t size_;
};

// For who will take `size`: some times as much free memory is made present and given back. A
// virtual machine may have given it back to its host (free page reporting), and whoever gets such a
// page next waits for the host.
void touch_free_memory(std::size_t size);

// `--name value` pairs; an unknown name, or a name without its value, fails.
class Arguments {
 public:
  Arguments(int argc, char** argv, std::initializer_list<std::string_view> known);
  bool has(std::string_view name) const;
  std::string text(std::string_view name, std::string_view otherwise = "") const;
  long number(std::string_view name, long otherwise) const;
  // Bytes; "64K", "1M" and "4G" are understood.
  std::size_t size(std::string_view name) const;
  Pages pages() const;  // --pages small|huge

 private:
  const std::string* find(std::string_view name) const;
  std::vector<std::pair<std::string, std::string>> given_;
};

// One flat JSON object, its samples in milliseconds.
class Record {
 public:
  explicit Record(std::string_view bench) { text("bench", bench); }
  void text(std::string_view name, std::string_view value);
  void number(std::string_view name, double value);
  void samples(std::string_view name, std::span<const double> seconds);
  void print() const;

 private:
  void name(std::string_view name);
  std::string json_;
};

}  // namespace telefork::bench
