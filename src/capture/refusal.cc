#include "capture/refusal.h"

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::capture {

std::string Refusal::text() const {
  return remedy.empty() ? fmt::format("{}: {}", what, why)
                        : fmt::format("{}: {}; {}", what, why, remedy);
}

void throw_refusals(const Refusals& refusals) {
  if (refusals.empty()) return;
  std::string text;
  for (const Refusal& refusal : refusals) {
    if (!text.empty()) text += '\n';
    text += "refused: " + refusal.text();
  }
  throw Error(Code::kRefused, text);
}

}  // namespace telefork::capture
