// How much memory telefork's own processes have had at most.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

namespace telefork::bench {

// By program name, the largest resident size in bytes that any one process of that name had up to
// now (VmHWM). Looks at `roots`, at what descends from them, and at nobody else's.
std::map<std::string, double> peak_resident(const std::vector<pid_t>& roots);

// Keeps the larger of both for each name.
void keep_peaks(std::map<std::string, double>& peaks, const std::map<std::string, double>& more);

// Mappings of this process.
int count_mappings();

}  // namespace telefork::bench
