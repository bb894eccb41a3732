// A program that never telefork()s, built three times: without the library (startup_plain), linked
// with an empty one (startup_empty, the price of any library), linked with libtelefork
// (startup_linked).
//
//     startup_X              ends at once
//     startup_X describe     what it has: "threads N fds N mappings N private N", see below
//     startup_X work         seconds for allocations, opens and forks: "malloc S open S fork S"
#include <dirent.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifdef LINKED_WITH
extern "C" int LINKED_WITH(const char*);
#endif

namespace {

constexpr int kAllocations = 400'000;
constexpr int kOpens = 20'000;
constexpr int kForks = 100;

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

int count_entries(const char* path) {
  DIR* folder = opendir(path);
  if (folder == nullptr) return -1;
  int entries = -3;  // ".", "..", and in fd/ this folder itself
  while (readdir(folder) != nullptr) ++entries;
  closedir(folder);
  return entries;
}

// Those of files and of the kernel, the library's own left out. Nameless ones merge with their
// neighbours as these happen to lie; private_kilobytes() has them.
int count_mappings() {
  std::FILE* file = std::fopen("/proc/self/maps", "re");
  if (file == nullptr) return -1;
  int count = 0;
  char line[512];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    const bool of_library =
        std::strstr(line, "libtelefork") != nullptr || std::strstr(line, "libempty") != nullptr;
    count += std::strpbrk(line, "/[") != nullptr && !of_library ? 1 : 0;
  }
  std::fclose(file);
  return count;
}

// Memory that is this process's alone, the library's included.
int private_kilobytes() {
  std::FILE* file = std::fopen("/proc/self/smaps_rollup", "re");
  if (file == nullptr) return -1;
  int kilobytes = 0;
  char line[512];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    std::sscanf(line, "Private_Dirty: %d kB", &kilobytes);
  }
  std::fclose(file);
  return kilobytes;
}

void describe() {
  std::printf("threads %d fds %d mappings %d private %d\n", count_entries("/proc/self/task") + 1,
              count_entries("/proc/self/fd"), count_mappings(), private_kilobytes());
}

double time_of_allocations() {
  const double start = now();
  for (int i = 0; i < kAllocations; ++i) {
    auto* volatile memory = static_cast<char*>(std::malloc(16 + i % 512));
    *memory = 1;
    std::free(memory);
  }
  return now() - start;
}

double time_of_opens() {
  const double start = now();
  for (int i = 0; i < kOpens; ++i) close(open("/dev/null", O_RDONLY | O_CLOEXEC));
  return now() - start;
}

double time_of_forks() {
  const double start = now();
  for (int i = 0; i < kForks; ++i) {
    const pid_t pid = fork();
    if (pid == 0) _exit(0);
    waitpid(pid, nullptr, 0);
  }
  return now() - start;
}

}  // namespace

int main(int argc, char** argv) {
#ifdef LINKED_WITH
  if (argc > 100) return LINKED_WITH(argv[0]);  // linked, never called
#endif
  if (argc == 2 && std::strcmp(argv[1], "describe") == 0) describe();
  if (argc == 2 && std::strcmp(argv[1], "work") == 0) {
    const double allocations = time_of_allocations();
    const double opens = time_of_opens();
    std::printf("malloc %.6f open %.6f fork %.6f\n", allocations, opens, time_of_forks());
  }
  return 0;
}
