#include "restore/kept_image.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::restore {
namespace {

constexpr std::array<char, 8> kMagic{'T', 'F', 'K', 'E', 'P', 'T', '0', '2'};
constexpr std::size_t kGather = 256 * 1024;

struct FileHeader {
  std::array<char, 8> magic;
  std::uint64_t places;
  std::uint64_t entries;
  image::SecretHash::Secret secret;
  KeptImage::Token token;
};
static_assert(sizeof(FileHeader) <= kPageSize);
static_assert(sizeof(KeptImage::Entry) == 32);

std::uint64_t offset_of(std::uint64_t place) { return (place + 1) * kPageSize; }

void read_at(const UniqueFd& file, std::uint64_t at, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t count = ::pread(file.get(), to.data(), to.size(), static_cast<off_t>(at));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_errno("reading a kept image");
    if (count == 0) throw Error(Code::kCorrupt, "a kept image is shorter than it says");
    at += static_cast<std::uint64_t>(count);
    to = to.subspan(static_cast<std::size_t>(count));
  }
}

void write_at(const UniqueFd& file, std::uint64_t at, std::span<const std::byte> from) {
  while (!from.empty()) {
    const ssize_t count = ::pwrite(file.get(), from.data(), from.size(), static_cast<off_t>(at));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw_errno("writing a kept image");
    at += static_cast<std::uint64_t>(count);
    from = from.subspan(static_cast<std::size_t>(count));
  }
}

}  // namespace

// With its header, and what the last entry and the end are rounded up to.
std::uint64_t KeptImage::pages_within(std::uint64_t bytes) {
  constexpr std::uint64_t kOther = 3 * kPageSize;
  return bytes < kOther ? 0 : (bytes - kOther) / (kPageSize + sizeof(Entry));
}

KeptImage KeptImage::make(std::uint64_t most) {
  UniqueFd file(::memfd_create("telefork-kept", MFD_CLOEXEC));
  if (!file) throw_errno("making a memory file");
  return {std::move(file), image::SecretHash::make_secret(), most};
}

KeptImage KeptImage::open(UniqueFd file, std::uint64_t most) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) throw_errno("looking at a kept image");
  const std::uint64_t places_at_most = static_cast<std::uint64_t>(status.st_size) / kPageSize;
  FileHeader header{};
  read_at(file, 0, std::as_writable_bytes(std::span(&header, 1)));
  if (header.magic != kMagic || header.places >= places_at_most || header.entries > header.places) {
    throw Error(Code::kCorrupt, "what was kept is no image");
  }
  KeptImage image(std::move(file), header.secret, most);
  image.token_ = header.token;
  image.places_ = header.places;
  image.pages_.resize(header.entries);
  read_at(image.file_, offset_of(header.places), std::as_writable_bytes(std::span(image.pages_)));
  std::uint64_t free_from = 0;
  for (const Entry& page : image.pages_) {
    const bool ends = page.address > UINT64_MAX - 2 * kPageSize;
    if (page.address % kPageSize != 0 || page.address < free_from || ends ||
        page.place >= header.places) {
      throw Error(Code::kCorrupt, "what was kept has pages that cannot be");
    }
    free_from = page.address + kPageSize;
  }
  image.find_free_places();
  image.next_.reserve(image.pages_.size());
  return image;
}

void KeptImage::find_free_places() {
  std::vector<bool> taken(places_);
  for (const Entry& page : pages_) taken[page.place] = true;
  for (std::uint64_t place = places_; place-- > 0;) {
    if (!taken[place]) free_.push_back(place);
  }
}

void KeptImage::read(RemotePtr at, std::span<std::byte> to) const {
  auto page = std::partition_point(pages_.begin(), pages_.end(),
                                   [at](const Entry& one) { return one.address < at.value(); });
  while (!to.empty()) {
    std::size_t count = 0;
    while (count * kPageSize < to.size() &&
           page + static_cast<std::ptrdiff_t>(count) != pages_.end()) {
      const Entry& one = page[static_cast<std::ptrdiff_t>(count)];
      if (one.address != (at + count * kPageSize).value()) break;
      if (one.place != page->place + count) break;
      ++count;
    }
    if (count == 0) {
      throw Error(Code::kCorrupt, fmt::format("the page at {:#x} was not kept", at.value()));
    }
    const std::span<std::byte> bytes = to.first(count * kPageSize);
    read_at(file_, offset_of(page->place), bytes);
    for (std::size_t i = 0; i < count; ++i, ++page) {
      if (hash_.of(bytes.subspan(i * kPageSize, kPageSize)) == page->hash) continue;
      throw Error(Code::kCorrupt,
                  fmt::format("the page at {:#x} is not what was kept", page->address));
    }
    at = at + bytes.size();
    to = to.subspan(bytes.size());
  }
}

void KeptImage::leave_out_until(RemotePtr at) {
  for (; passed_ < pages_.size() && pages_[passed_].address < at.value(); ++passed_) {
    free_.push_back(pages_[passed_].place);
  }
}

void KeptImage::put(RemotePtr at, std::span<const std::byte> bytes) {
  for (; !bytes.empty(); bytes = bytes.subspan(kPageSize), at = at + kPageSize) {
    put_page(at, bytes.first(kPageSize));
  }
}

void KeptImage::put_page(RemotePtr at, std::span<const std::byte> page) {
  leave_out_until(at);
  const bool known = passed_ < pages_.size() && pages_[passed_].address == at.value();
  if (next_.size() >= most_) {
    return;
  }
  Entry entry{at.value(), 0, hash_.of(page)};
  if (known) {
    const Entry& before = pages_[passed_++];
    entry.place = before.place;
    if (before.hash == entry.hash) {
      next_.push_back(entry);
      return;
    }
  } else if (!free_.empty()) {
    entry.place = free_.back();
    free_.pop_back();
  } else {
    entry.place = places_++;
  }
  next_.push_back(entry);
  const std::uint64_t gathered = gathered_.size() / kPageSize;
  if (gathered > 0 && entry.place != gathered_place_ + gathered) write_gathered();
  if (gathered_.empty()) gathered_place_ = entry.place;
  gathered_.insert(gathered_.end(), page.begin(), page.end());
  if (gathered_.size() >= kGather) write_gathered();
}

void KeptImage::put_again(RemotePtr at, std::uint64_t pages) {
  leave_out_until(at);
  const std::uint64_t end = (at + pages * kPageSize).value();
  for (; passed_ < pages_.size() && pages_[passed_].address < end; ++passed_) {
    if (next_.size() >= most_) return;
    next_.push_back(pages_[passed_]);
  }
}

void KeptImage::write_gathered() {
  write_at(file_, offset_of(gathered_place_), gathered_);
  gathered_.clear();
}

void KeptImage::punch_free_places() {
  std::sort(free_.begin(), free_.end());
  for (std::size_t i = 0; i < free_.size();) {
    std::size_t count = 1;
    while (i + count < free_.size() && free_[i + count] == free_[i] + count) ++count;
    if (::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(offset_of(free_[i])),
                    static_cast<off_t>(count * kPageSize)) != 0) {
      throw_errno("freeing memory of a kept image");
    }
    i += count;
  }
}

UniqueFd KeptImage::close() {
  leave_out_until(RemotePtr(UINT64_MAX));
  write_gathered();
  punch_free_places();
  // So few bytes come whole (random(4)).
  if (::getrandom(token_.data(), token_.size(), 0) != static_cast<ssize_t>(token_.size())) {
    throw_errno("asking for random bytes");
  }
  FileHeader header{kMagic, places_, next_.size(), secret_, token_};
  write_at(file_, 0, std::as_bytes(std::span(&header, 1)));
  write_at(file_, offset_of(places_), std::as_bytes(std::span(next_)));
  // Rounded up, so that open() finds it longer than its pages even where there is none.
  const std::uint64_t end = offset_of(places_) + next_.size() * sizeof(Entry);
  if (::ftruncate(file_.get(), static_cast<off_t>(round_up(end, kPageSize) + kPageSize)) != 0) {
    throw_errno("the size of a kept image");
  }
  pages_ = std::move(next_);
  return std::move(file_);
}

}  // namespace telefork::restore
