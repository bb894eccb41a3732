// word_count [-f TEXT] NODE...: counts the words of a large text on several machines at once.
//
//      this process              node 1                    node 2
//      load the text
//      telefork::fork() -------> count part 1 on all cores
//      telefork::fork() -----------------------------------> count part 2 on all cores
//      merge  <--- stdout -----  table
//             <--- stdout -------------------------------- table
//      count all of it here, compare
//
// The text is read from disk once. A child wakes up on its node with it in memory, and its stdout
// comes home: each is given a pipe for it.
#include <fcntl.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "telefork/telefork.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using Table = std::unordered_map<std::string, unsigned long>;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double megabytes(std::string_view text) { return static_cast<double>(text.size()) / 1e6; }

std::string host() {
  utsname name{};
  uname(&name);
  return name.nodename;
}

std::string load(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  std::string text(file ? static_cast<std::size_t>(file.tellg()) : 0, '\0');
  file.seekg(0);
  if (!file.read(text.data(), static_cast<std::streamsize>(text.size()))) {
    throw std::runtime_error("cannot read " + path);
  }
  return text;
}

// --- Counting: knows nothing of machines ---------------------------------------------------------

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Parts of about the same size; none begins or ends inside a word.
std::vector<std::string_view> split(std::string_view text, std::size_t parts) {
  std::vector<std::string_view> result;
  for (; parts > 0; --parts) {
    std::size_t end = text.size() / parts;
    while (end < text.size() && is_letter(text[end])) ++end;
    result.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return result;
}

void count_words(std::string_view text, Table& table) {
  std::string word;
  for (char c : text) {
    if (is_letter(c)) {
      word += static_cast<char>(c | 0x20);  // in lower case
    } else if (!word.empty()) {
      ++table[word];
      word.clear();
    }
  }
  if (!word.empty()) ++table[word];
}

void add(const Table& more, Table& table) {
  for (const auto& [word, count] : more) table[word] += count;
}

unsigned cores() { return std::max(1U, std::thread::hardware_concurrency()); }

Table count_on_all_cores(std::string_view text) {
  const std::vector<std::string_view> parts = split(text, cores());
  std::vector<Table> tables(parts.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    threads.emplace_back(count_words, parts[i], std::ref(tables[i]));
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 1; i < tables.size(); ++i) add(tables[i], tables[0]);
  return std::move(tables[0]);
}

// --- Forking ------------------------------------------------------------------------------------

struct Child {
  std::string_view part;
  Clock::time_point start;
  double call_ms;  // how long fork() took
  pid_t pid;
  int table;  // the pipe that its stdout goes to

  // What it tells.
  std::string host;
  unsigned cores = 0;
  double count_ms = 0;
  Table words;
};

// In the child, on its node.
[[noreturn]] void count_and_print(std::string_view part) {
  const auto start = Clock::now();
  const Table words = count_on_all_cores(part);
  std::printf("%s %u %f\n", host().c_str(), cores(), ms_since(start));
  for (const auto& [word, count] : words) std::printf("%s %lu\n", word.c_str(), count);
  _exit(std::fflush(stdout) == 0 ? 0 : 1);
}

// Stdout is the pipe while it forks, and so the child's is. What else is open stays at home.
Child start_on(const std::string& node, std::string_view part) {
  std::fflush(stdout);
  int pipe[2];
  const int saved = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  if (saved < 0 || pipe2(pipe, O_CLOEXEC) != 0) throw std::runtime_error("no descriptors left");
  dup2(pipe[1], STDOUT_FILENO);
  close(pipe[1]);
  const auto start = Clock::now();
  const pid_t pid = telefork::fork(node, {.fds = telefork::Fds::leave_home});
  if (pid == 0) count_and_print(part);
  const double call_ms = ms_since(start);
  dup2(saved, STDOUT_FILENO);
  close(saved);
  return {part, start, call_ms, pid, pipe[0], {}, 0, 0, {}};
}

std::string read_all(int fd) {
  std::string bytes;
  char buffer[65536];
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) {
    bytes.append(buffer, static_cast<std::size_t>(n));
  }
  close(fd);
  return bytes;
}

void collect(Child& child) {
  std::istringstream table(read_all(child.table));
  int status = 0;
  if (waitpid(child.pid, &status, 0) != child.pid || status != 0) {
    throw std::runtime_error("child " + std::to_string(child.pid) + " failed");
  }
  table >> child.host >> child.cores >> child.count_ms;
  std::string word;
  for (unsigned long count = 0; table >> word >> count;) child.words[word] = count;
}

// --- What it prints -----------------------------------------------------------------------------

void print_top_ten(const Table& total, const std::vector<Child>& children) {
  std::vector<std::pair<std::string, unsigned long>> top(
      static_cast<std::size_t>(std::min<std::ptrdiff_t>(10, std::ssize(total))));
  std::partial_sort_copy(total.begin(), total.end(), top.begin(), top.end(),
                         [](const auto& a, const auto& b) { return a.second > b.second; });
  std::printf("%-8s %9s", "", "all");
  for (const Child& child : children) std::printf(" %9s", child.host.c_str());
  for (const auto& [word, count] : top) {
    std::printf("\n%-8s %9lu", word.c_str(), count);
    for (const Child& child : children) {
      const auto found = child.words.find(word);
      std::printf(" %9lu", found == child.words.end() ? 0 : found->second);
    }
  }
  std::printf("\n");
}

int run(const std::string& path, const std::vector<std::string>& nodes) {
  auto start = Clock::now();
  const std::string text = load(path);
  std::printf("%-8s loaded %.1f MB in %.0f ms\n", host().c_str(), megabytes(text), ms_since(start));

  const std::vector<std::string_view> parts = split(text, nodes.size());
  std::vector<Child> children;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    children.push_back(start_on(nodes[i], parts[i]));
  }
  Table total;
  for (Child& child : children) {
    collect(child);
    std::printf(
        "%-8s counted %.1f MB on %u cores in %.0f ms; fork() took %.1f ms, its table was here "
        "after %.0f ms\n",
        child.host.c_str(), megabytes(child.part), child.cores, child.count_ms, child.call_ms,
        ms_since(child.start));
    add(child.words, total);
  }

  start = Clock::now();
  const bool same = total == count_on_all_cores(text);
  std::printf("%-8s counted all of it in %.0f ms: %s\n\n", host().c_str(), ms_since(start),
              same ? "the same table" : "ANOTHER TABLE");
  print_top_ten(total, children);
  return same ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) try {
  std::vector<std::string> nodes(argv + 1, argv + argc);
  std::string path = DEFAULT_TEXT;
  if (nodes.size() >= 2 && nodes[0] == "-f") {
    path = nodes[1];
    nodes.erase(nodes.begin(), nodes.begin() + 2);
  }
  if (nodes.empty() || nodes[0].starts_with('-')) {
    std::fprintf(stderr, "usage: word_count [-f TEXT] NODE...\n");
    return 2;
  }
  return run(path, nodes);
} catch (const std::exception& error) {
  std::fprintf(stderr, "word_count: %s\n", error.what());
  return 1;
}
