#include "capture/guard_scan.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace telefork::capture {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// Of what is mapped. How long a piece takes depends on how much of it is present, and in pages of
// which size: the next one is larger or smaller.
constexpr std::uint64_t kLeastPiece = 16 * 1024 * 1024;
constexpr std::uint64_t kMostPiece = std::uint64_t{1} << 40;
constexpr auto kShort = 50us;
constexpr auto kLong = 200us;

}  // namespace

void GuardScan::scan() {
  std::uint64_t piece = kLeastPiece;
  std::uint64_t left = piece;
  RemotePtr from;
  auto look = [&](RemotePtr to) {
    const Clock::time_point begun = Clock::now();
    for (const kernel::PageRun& run : map_.guard_pages(from, to)) {
      kernel::append_run(guards_, run);
    }
    const Clock::duration took = Clock::now() - begun;
    if (took < kShort) piece = std::min(2 * piece, kMostPiece);
    if (took > kLong) piece = std::max(piece / 2, kLeastPiece);
    from = to;
    left = piece;
  };
  for (const kernel::Vma& vma : vmas_) {
    if (vma.is_vsyscall()) continue;
    RemotePtr at = vma.start;
    for (; vma.end - at > left; at = from) look(at + left);
    left -= vma.end - at;
  }
  const auto is_ordinary = [](const kernel::Vma& vma) { return !vma.is_vsyscall(); };
  const auto last = std::find_if(vmas_.rbegin(), vmas_.rend(), is_ordinary);
  if (last != vmas_.rend()) look(last->end);
}

}  // namespace telefork::capture
