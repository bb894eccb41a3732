#include "session/description.h"

#include <algorithm>

#include "base/error.h"
#include "kernel/procfs_state.h"

namespace telefork::session {
namespace {

constexpr std::string_view kCut = "...";

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

}  // namespace

std::string shorten(std::string_view text, std::size_t size) {
  TELEFORK_ASSERT(size >= kCut.size());
  if (text.size() <= size) return std::string(text);
  std::size_t end = size - kCut.size();
  // Four bytes are the longest character; what goes on for longer is no UTF-8.
  for (std::size_t back = 0; back < 4 && back <= end; ++back) {
    if (continues_character(text[end - back])) continue;
    end -= back;
    break;
  }
  return std::string(text.substr(0, end)).append(kCut);
}

std::string describe_command(pid_t pid) {
  std::string line = kernel::read_cmdline(pid);
  while (!line.empty() && line.back() == '\0') line.pop_back();
  std::replace(line.begin(), line.end(), '\0', ' ');
  return shorten(line, kMaxDescription);
}

std::string describe_command(const std::vector<std::string>& arguments) {
  std::string line;
  for (const std::string& argument : arguments) {
    if (!line.empty()) line += ' ';
    line += argument;
  }
  return shorten(line, kMaxDescription);
}

std::vector<std::string> list_arguments(pid_t pid) {
  const std::string line = kernel::read_cmdline(pid);
  std::vector<std::string> arguments;
  for (std::size_t at = 0; at < line.size();) {
    std::size_t end = std::min(line.find('\0', at), line.size());
    arguments.push_back(line.substr(at, end - at));
    at = end + 1;
  }
  if (arguments.empty()) arguments.emplace_back("telefork-deputy");
  return arguments;
}

}  // namespace telefork::session
