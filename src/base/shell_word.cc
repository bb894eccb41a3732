#include "base/shell_word.h"

#include <algorithm>

namespace telefork {

std::string quote_for_shell(std::string_view word) {
  constexpr std::string_view kHarmless = "/._-+~:@,";
  bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           kHarmless.find(c) != kHarmless.npos;
  });
  if (plain) return std::string(word);
  std::string quoted = "'";
  for (char c : word) quoted += c == '\'' ? "'\"'\"'" : std::string(1, c);
  return quoted + "'";
}

}  // namespace telefork
