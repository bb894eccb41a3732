#include "processes.h"

#include <dirent.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace telefork::bench {
namespace {

struct Process {
  pid_t pid = 0;
  pid_t parent = 0;
  std::string name;
  double peak = 0;
};

// False for one that ended meanwhile, or has no memory any more.
bool read_process(const char* pid, Process& process) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%.20s/status", pid);
  std::FILE* file = std::fopen(path, "re");
  if (file == nullptr) return false;
  process.pid = std::atoi(pid);
  char line[256];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    char name[64];
    double kilobytes = 0;
    if (std::sscanf(line, "Name: %63s", name) == 1) process.name = name;
    if (std::sscanf(line, "PPid: %d", &process.parent) == 1) continue;
    if (std::sscanf(line, "VmHWM: %lf kB", &kilobytes) == 1) process.peak = kilobytes * 1024;
  }
  std::fclose(file);
  return process.peak > 0;
}

std::vector<Process> all_processes() {
  std::vector<Process> processes;
  DIR* folder = opendir("/proc");
  if (folder == nullptr) return processes;
  while (const dirent* entry = readdir(folder)) {
    if (std::strspn(entry->d_name, "0123456789") != std::strlen(entry->d_name)) continue;
    Process process;
    if (read_process(entry->d_name, process)) processes.push_back(process);
  }
  closedir(folder);
  return processes;
}

bool descends(const Process* process, const std::vector<pid_t>& roots,
              const std::vector<Process>& all) {
  for (int steps = 0; process != nullptr && steps < 64; ++steps) {
    if (std::ranges::find(roots, process->pid) != roots.end()) return true;
    auto parent = std::ranges::find(all, process->parent, &Process::pid);
    process = parent == all.end() ? nullptr : &*parent;
  }
  return false;
}

}  // namespace

std::map<std::string, double> peak_resident(const std::vector<pid_t>& roots) {
  std::map<std::string, double> peaks;
  const std::vector<Process> all = all_processes();
  for (const Process& process : all) {
    if (!descends(&process, roots, all)) continue;
    double& peak = peaks[process.name];
    peak = std::max(peak, process.peak);
  }
  return peaks;
}

void keep_peaks(std::map<std::string, double>& peaks, const std::map<std::string, double>& more) {
  for (const auto& [name, peak] : more) peaks[name] = std::max(peaks[name], peak);
}

int count_mappings() {
  std::FILE* file = std::fopen("/proc/self/maps", "re");
  if (file == nullptr) return 0;
  int lines = 0;
  for (int c; (c = std::getc(file)) != EOF;) lines += c == '\n';
  std::fclose(file);
  return lines;
}

}  // namespace telefork::bench
