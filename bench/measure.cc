#include "measure.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace telefork::bench {
namespace {

constexpr std::size_t kHugePageSize = 2 * 1024 * 1024;

// Xorshift: fast enough not to matter, and no page is like another.
void fill(std::byte* data, std::size_t size) {
  std::uint64_t x = 0x9e3779b97f4a7c15;
  auto* words = reinterpret_cast<std::uint64_t*>(data);
  for (std::size_t i = 0; i < size / sizeof *words; ++i) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    words[i] = x;
  }
}

// What is given back is not always what is taken next: measured, with twice or three times as much
// a way of 1 GB does not wait for the host any more.
constexpr std::size_t kTimes = 3;

std::string escaped(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out;
}

}  // namespace

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

void fail(const std::string& what) {
  std::fprintf(stderr, "bench: %s\n", what.c_str());
  std::exit(1);
}

void fail_errno(const std::string& what) { fail(what + ": " + std::strerror(errno)); }

void touch_free_memory(std::size_t size) {
  if (size == 0) return;
  size *= kTimes;
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) fail_errno("mmap");
  madvise(at, size, MADV_HUGEPAGE);
  if (madvise(at, size, MADV_POPULATE_WRITE) != 0) fail_errno("MADV_POPULATE_WRITE");
  munmap(at, size);
}

// Aligned by hand, so that huge pages are whole ones.
TouchedMemory::TouchedMemory(std::size_t size, Pages pages) : size_(size) {
  std::size_t room = size + kHugePageSize;
  void* at = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) fail_errno("mmap");
  auto start = reinterpret_cast<std::uintptr_t>(at);
  auto aligned = (start + kHugePageSize - 1) / kHugePageSize * kHugePageSize;
  if (aligned > start) munmap(at, aligned - start);
  if (aligned + size < start + room) {
    munmap(reinterpret_cast<void*>(aligned + size), start + room - aligned - size);
  }
  at = mmap(reinterpret_cast<void*>(aligned), size, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (at == MAP_FAILED) fail_errno("mmap");
  data_ = static_cast<std::byte*>(at);
  bool huge = pages == Pages::kHuge;
  if (huge && madvise(at, size, MADV_HUGEPAGE) != 0) fail_errno("MADV_HUGEPAGE");
  // By the process, for as long as pages are made: MADV_NOHUGEPAGE would stay with the VMA.
  if (!huge) prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  own_again();
  if (!huge) prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
  fill(data_, size_);
}

TouchedMemory::~TouchedMemory() { munmap(data_, size_); }

void TouchedMemory::own_again() {
  if (madvise(data_, size_, MADV_POPULATE_WRITE) != 0) fail_errno("MADV_POPULATE_WRITE");
}

Arguments::Arguments(int argc, char** argv, std::initializer_list<std::string_view> known) {
  for (int i = 1; i < argc; i += 2) {
    std::string_view name = argv[i];
    if (!name.starts_with("--") || std::ranges::find(known, name.substr(2)) == known.end()) {
      fail("unknown argument " + std::string(name));
    }
    if (i + 1 == argc) fail("no value after " + std::string(name));
    given_.emplace_back(name.substr(2), argv[i + 1]);
  }
}

const std::string* Arguments::find(std::string_view name) const {
  auto it = std::ranges::find(given_, name, &std::pair<std::string, std::string>::first);
  return it == given_.end() ? nullptr : &it->second;
}

bool Arguments::has(std::string_view name) const { return find(name) != nullptr; }

std::string Arguments::text(std::string_view name, std::string_view otherwise) const {
  const std::string* value = find(name);
  return value ? *value : std::string(otherwise);
}

long Arguments::number(std::string_view name, long otherwise) const {
  const std::string* value = find(name);
  return value ? std::strtol(value->c_str(), nullptr, 10) : otherwise;
}

std::size_t Arguments::size(std::string_view name) const {
  std::string value = text(name);
  char* unit = nullptr;
  std::size_t number = std::strtoull(value.c_str(), &unit, 10);
  if (number == 0) fail("--" + std::string(name) + " needs a size such as 64M");
  switch (*unit) {
    case 'K':
      return number << 10;
    case 'M':
      return number << 20;
    case 'G':
      return number << 30;
    default:
      return number;
  }
}

Pages Arguments::pages() const {
  std::string value = text("pages", "small");
  if (value != "small" && value != "huge") fail("--pages is small or huge");
  return value == "huge" ? Pages::kHuge : Pages::kSmall;
}

void Record::name(std::string_view name) {
  json_ += json_.empty() ? "{" : ", ";
  json_ += '"' + escaped(name) + "\": ";
}

void Record::text(std::string_view name, std::string_view value) {
  this->name(name);
  json_ += '"' + escaped(value) + '"';
}

void Record::number(std::string_view name, double value) {
  this->name(name);
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.17g", value);
  json_ += digits;
}

void Record::samples(std::string_view name, std::span<const double> seconds) {
  this->name(name);
  json_ += '[';
  for (std::size_t i = 0; i < seconds.size(); ++i) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%s%.4f", i == 0 ? "" : ", ", seconds[i] * 1e3);
    json_ += digits;
  }
  json_ += ']';
}

void Record::print() const { std::printf("%s}\n", json_.c_str()); }

}  // namespace telefork::bench
