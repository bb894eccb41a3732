// What is moved: a program that has never heard of telefork.
//
//     move_subject SIZE_IN_MB THREADS MAPPINGS CHILDREN [PAGES_PER_SECOND]
//
// With so many more threads, which sleep, mappings of a page each, and children, which sleep too,
// it says `ready`, and ends when its standard input does, its children before.
//
// With PAGES_PER_SECOND it writes to so many of its pages meanwhile, a thousandth of them every
// millisecond, and says at the end for how many milliseconds it did not at most, since it was last
// sent a byte.
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "measure.h"

namespace telefork::bench {
namespace {

constexpr std::size_t kPage = 4096;

// Every other one may not be written to, so that each is one of its own.
void make_mappings(long count) {
  if (count == 0) return;
  const std::size_t size = static_cast<std::size_t>(count) * kPage;
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) fail_errno("mmap");
  auto* bytes = static_cast<char*>(at);
  for (std::size_t i = 0; i < size; i += kPage) {
    bytes[i] = 1;
    if (i / kPage % 2 != 0 && mprotect(bytes + i, kPage, PROT_READ) != 0) fail_errno("mprotect");
  }
}

std::vector<pid_t> make_children(long count) {
  std::vector<pid_t> children;
  for (long i = 0; i < count; ++i) {
    const pid_t child = fork();
    if (child < 0) fail_errno("fork");
    while (child == 0) pause();
    children.push_back(child);
  }
  return children;
}

// Until its standard input ends.
void write_pages(TouchedMemory& memory, std::size_t per_millisecond) {
  // Far from one another, each as often as every other one.
  constexpr std::size_t kStep = 7919;
  const std::size_t pages = memory.size() / kPage;
  std::size_t page = 0;
  double longest = 0;
  double last = now();
  for (;;) {
    pollfd input = {STDIN_FILENO, POLLIN, 0};
    const int ready = poll(&input, 1, 1);
    for (std::size_t i = 0; i < per_millisecond; ++i) {
      page = (page + kStep) % pages;
      std::byte& first = memory.data()[page * kPage];
      first = std::byte(std::to_integer<unsigned>(first) + 1);
    }
    const double at = now();
    longest = std::max(longest, at - last);
    last = at;
    char byte;
    if (ready <= 0) continue;
    if (read(STDIN_FILENO, &byte, 1) <= 0) break;
    longest = 0;
  }
  std::printf("%.3f\n", longest * 1e3);
  std::fflush(stdout);
}

void run(long megabytes, long threads, long mappings, long count, long writes) {
  const std::vector<pid_t> children = make_children(count);
  TouchedMemory memory(static_cast<std::size_t>(megabytes) << 20, Pages::kSmall);
  make_mappings(mappings);
  for (long i = 0; i < threads; ++i) std::thread([] { pause(); }).detach();
  std::puts("ready");
  std::fflush(stdout);
  if (writes > 0) {
    write_pages(memory, static_cast<std::size_t>(writes) / 1000);
  } else {
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
  }
  for (pid_t child : children) kill(child, SIGKILL);
  for (pid_t child : children) {
    if (waitpid(child, nullptr, 0) != child) fail_errno("waitpid");
  }
  _exit(0);
}

}  // namespace
}  // namespace telefork::bench

int main(int argc, char** argv) {
  if (argc != 5 && argc != 6) {
    telefork::bench::fail(
        "usage: move_subject SIZE_IN_MB THREADS MAPPINGS CHILDREN [PAGES_PER_SECOND]");
  }
  telefork::bench::run(std::stol(argv[1]), std::stol(argv[2]), std::stol(argv[3]),
                       std::stol(argv[4]), argc == 6 ? std::stol(argv[5]) : 0);
}
