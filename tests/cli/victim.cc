// A process with threads that is saved and loaded: it says "ready PID", waits for a line on stdin,
// then looks whether everything is as it was. 42: it is. It links nothing of telefork.
//
//     victim THREADS MEGABYTES [FILE]      FILE is kept open for reading, half-way through
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr int kPass = 42;

thread_local unsigned long own_value = 0;
std::atomic<bool> go{false};
std::atomic<unsigned> ready{0};
std::atomic<unsigned long> turns{0};
std::atomic<unsigned> wrong{0};
std::mutex held;

pid_t tid_of_kernel() { return static_cast<pid_t>(syscall(SYS_gettid)); }

void expect(bool condition, const char* what) {
  if (condition) return;
  wrong++;
  std::fprintf(stderr, "victim: %s is not as it was\n", what);
}

void run_thread(unsigned number) {
  own_value = 1000 + number;
  const pid_t tid = tid_of_kernel();
  double sum = number;  // lives in a vector register
  ready++;
  while (!go) {
    sum += 0.5;
    sum -= 0.5;
    turns++;
    if (number % 2 == 0) usleep(1000);
  }
  expect(own_value == 1000 + number, "thread-local storage");
  expect(tid == tid_of_kernel(), "a thread id");
  expect(sum == number, "a vector register");
  std::lock_guard<std::mutex> lock(held);
  ready--;
}

unsigned pattern(std::size_t i) { return static_cast<unsigned>(i) * 2654435761u; }

void check_sparse(const char* sparse, std::size_t size) {
  std::vector<unsigned char> resident(size / 4096);
  expect(mincore(const_cast<char*>(sparse), size, resident.data()) == 0, "the sparse mapping");
  std::size_t pages = 0;
  for (unsigned char page : resident) pages += page & 1;
  expect(pages < 2000, "sparse memory");
  expect(sparse[size / 2] == 'x' && sparse[0] == 0, "the content of sparse memory");
}

// Nobody has its stdin: it waits for SIGUSR1, which is blocked in all threads.
bool waits_for_signal() { return std::getenv("VICTIM_WAITS_FOR_SIGNAL") != nullptr; }

sigset_t signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  return set;
}

void await_word() {
  char line[16];
  const sigset_t set = signals();
  int signal = 0;
  if (waits_for_signal()) {
    expect(sigwait(&set, &signal) == 0 && signal == SIGUSR1, "the signal");
  } else {
    expect(read(STDIN_FILENO, line, sizeof(line)) > 0, "stdin");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const sigset_t set = signals();
  if (waits_for_signal()) sigprocmask(SIG_BLOCK, &set, nullptr);
  const unsigned count = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 0;
  const std::size_t words = (argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1) << 18;
  const int file = argc > 3 ? open(argv[3], O_RDONLY) : -1;
  off_t position = 0;
  if (file >= 0) position = lseek(file, lseek(file, 0, SEEK_END) / 2, SEEK_SET);

  std::vector<unsigned> data(words);
  for (std::size_t i = 0; i < words; ++i) data[i] = pattern(i);
  constexpr std::size_t kSparse = std::size_t{1} << 30;
  auto* sparse = static_cast<char*>(mmap(nullptr, kSparse, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  madvise(sparse, kSparse, MADV_NOHUGEPAGE);
  sparse[kSparse / 2] = 'x';
  const pid_t pid = getpid();

  held.lock();
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < count; ++i) threads.emplace_back(run_thread, i);
  while (ready != count) usleep(1000);
  std::printf("ready %d\n", pid);
  std::fflush(stdout);

  await_word();
  const unsigned long before = turns;
  while (count > 0 && turns < before + 10) usleep(1000);
  go = true;
  held.unlock();
  for (std::thread& thread : threads) thread.join();

  expect(getpid() == pid && tid_of_kernel() == pid, "the process id");
  expect(ready == 0, "the number of threads");
  for (std::size_t i = 0; i < words; ++i) {
    if (data[i] == pattern(i)) continue;
    expect(false, "memory");
    break;
  }
  check_sparse(sparse, kSparse);
  if (file >= 0) expect(lseek(file, 0, SEEK_CUR) == position, "a file's position");
  std::printf("%s\n", wrong == 0 ? "pass" : "fail");
  std::fflush(stdout);
  return wrong == 0 ? kPass : 1;
}
