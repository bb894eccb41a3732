// What is moved: a program that has never heard of telefork.
//
//     move_subject SIZE_IN_MB THREADS MAPPINGS CHILDREN
//
// With so many more threads, which sleep, mappings of a page each, and children, which sleep too,
// it says `ready`, and ends when its standard input does, its children before.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

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

void run(long megabytes, long threads, long mappings, long count) {
  const std::vector<pid_t> children = make_children(count);
  TouchedMemory memory(static_cast<std::size_t>(megabytes) << 20, Pages::kSmall);
  make_mappings(mappings);
  for (long i = 0; i < threads; ++i) std::thread([] { pause(); }).detach();
  std::puts("ready");
  std::fflush(stdout);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
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
  if (argc != 5) telefork::bench::fail("usage: move_subject SIZE_IN_MB THREADS MAPPINGS CHILDREN");
  telefork::bench::run(std::stol(argv[1]), std::stol(argv[2]), std::stol(argv[3]),
                       std::stol(argv[4]));
}
