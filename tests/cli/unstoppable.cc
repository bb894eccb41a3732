// A process that no tracer can stop before a line comes on stdin: a thread of it waits for a
// vfork's child, which is its parent's child and so does not keep it from being saved. Then it ends
// with 42.
#include <sched.h>
#include <csignal>
#include <cstdio>
#include <thread>

#include <unistd.h>

namespace {

alignas(16) char stack[65536];

int be_child(void*) {
  char byte;
  return std::puts("ready") >= 0 && std::fflush(stdout) == 0 && read(0, &byte, 1) == 1 ? 0 : 1;
}

}  // namespace

int main() {
  std::thread waiting([] {
    clone(&be_child, stack + sizeof(stack), CLONE_VFORK | CLONE_PARENT | SIGCHLD, nullptr);
  });
  waiting.join();
  return 42;
}
