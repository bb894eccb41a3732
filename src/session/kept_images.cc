#include "session/kept_images.h"

#include <algorithm>
#include <utility>

#include <sys/stat.h>

#include "kernel/memory_limit.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kShareOfMemory = 4;   // one part of so many
constexpr std::uint64_t kShortOfMemory = 16;  // less than one part of so many is left
constexpr auto kLookAgain = 5s;

}  // namespace

std::uint64_t KeepLimits::memory_bytes() const {
  return 1024 * memory_kb.value_or(kernel::read_memory_for_us().total_kb / kShareOfMemory);
}

KeptImages::KeptImages(const KeepLimits& limits)
    : limits_(limits), most_bytes_(limits.memory_bytes()) {}

void KeptImages::put(Owner owner, UniqueFd file) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return;
  static_cast<void>(take(owner));
  images_.push_back({std::move(owner), std::move(file),
                     static_cast<std::uint64_t>(status.st_blocks) * 512, Clock::now()});
  tidy();
}

UniqueFd KeptImages::take(const Owner& owner) {
  auto found = std::find_if(images_.begin(), images_.end(),
                            [&owner](const Image& image) { return image.owner == owner; });
  if (found == images_.end()) return {};
  UniqueFd file = std::move(found->file);
  images_.erase(found);
  return file;
}

void KeptImages::tidy() {
  const Clock::time_point oldest = Clock::now() - std::chrono::seconds(limits_.seconds);
  while (!images_.empty() && images_.front().since <= oldest) images_.pop_front();
  if (images_.empty()) return;
  const kernel::MemoryInfo memory = kernel::read_memory_for_us();
  if (memory.available_kb < memory.total_kb / kShortOfMemory) images_.clear();
  std::uint64_t bytes = 0;
  for (const Image& image : images_) bytes += image.bytes;
  while (!images_.empty() && (images_.size() > limits_.images || bytes > most_bytes_)) {
    bytes -= images_.front().bytes;
    images_.pop_front();
  }
}

std::optional<KeptImages::Clock::time_point> KeptImages::next_turn() const {
  if (images_.empty()) return std::nullopt;
  return Clock::now() + kLookAgain;
}

}  // namespace telefork::session
