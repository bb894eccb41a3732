#include "session/repeat_watch.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_io.h"

namespace telefork::session {
namespace {

constexpr std::array<char, 8> kMagic{'T', 'F', 'K', 'N', 'O', 'W', 'N', '1'};
constexpr std::uint64_t kMostName = 64 * 1024;

// Node, token and runs follow.
struct Known {
  std::array<char, 8> magic;
  std::uint64_t node_size;
  std::uint64_t token_size;
  std::uint64_t runs;
};

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// One after the other.
class Reading {
 public:
  explicit Reading(const UniqueFd& file) : file_(file) {}

  void into(std::span<std::byte> bytes) {
    auto to = bytes.begin();
    read_in_pieces(file_, at_, bytes.size(), "what is known of a node",
                   [&to](std::span<const std::byte> piece) {
                     to = std::copy(piece.begin(), piece.end(), to);
                   });
    at_ += bytes.size();
  }

 private:
  const UniqueFd& file_;
  std::uint64_t at_ = 0;
};

}  // namespace

RepeatWatch::RepeatWatch(pid_t program, kernel::PageMapAbi abi, UniqueFd userfaultfd)
    : RepeatWatch(program, abi, kernel::WriteWatch(program, abi, std::move(userfaultfd))) {}

RepeatWatch RepeatWatch::unpack(pid_t program, kernel::PageMapAbi abi, Packed packed) {
  RepeatWatch watch(program, abi,
                    kernel::WriteWatch::go_on(program, abi, std::move(packed.userfaultfd)));
  Known known{};
  Reading reading(packed.known);
  reading.into(std::as_writable_bytes(std::span(&known, 1)));
  const off_t size = ::lseek(packed.known.get(), 0, SEEK_END);
  if (size < 0) throw_errno("looking at what is known of a node");
  if (known.magic != kMagic || known.node_size > kMostName || known.token_size > kMostName ||
      known.runs > static_cast<std::uint64_t>(size) / sizeof(kernel::PageRun)) {
    throw Error(Code::kCorrupt, "what is known of a node is not that");
  }
  watch.node_.resize(known.node_size);
  watch.token_.resize(known.token_size);
  watch.pages_.resize(known.runs);
  reading.into(std::as_writable_bytes(std::span(watch.node_)));
  reading.into(watch.token_);
  reading.into(std::as_writable_bytes(std::span(watch.pages_)));
  return watch;
}

RepeatWatch::Packed RepeatWatch::pack() const {
  Packed packed;
  packed.userfaultfd = watch_.duplicate();
  packed.known.reset(::memfd_create("telefork-known", MFD_CLOEXEC));
  if (!packed.known) throw_errno("making a memory file");
  const Known known{kMagic, node_.size(), token_.size(), pages_.size()};
  for (std::span<const std::byte> part :
       {std::as_bytes(std::span(&known, 1)), bytes_of(node_), std::span<const std::byte>(token_),
        std::as_bytes(std::span(pages_))}) {
    write_fully(packed.known, part, "what is known of a node");
  }
  return packed;
}

bool RepeatWatch::is_worth_watching(const kernel::Vma& vma) {
  return vma.is_anonymous() && !vma.shared && vma.size() >= kernel::kLeastWatched &&
         !vma.is_vdso_or_vvar() && !vma.is_vsyscall();
}

std::span<const std::byte> RepeatWatch::token_of(const std::string& node) const {
  return node == node_ ? std::span<const std::byte>(token_) : std::span<const std::byte>();
}

std::vector<kernel::PageRun> RepeatWatch::clean(const std::vector<kernel::Vma>& map) const {
  std::vector<kernel::PageRun> clean;
  std::vector<kernel::PageRun> guards;
  for (const kernel::Vma& vma : map) {
    if (!is_worth_watching(vma)) continue;
    // Pages that mremap(2) has brought there may look protected, and are watched by nobody.
    const kernel::PageMap::Private pages =
        map_.private_and_unprotected_pages(vma.start, vma.end, guards);
    if (!watch_.is_free(vma)) continue;
    const std::vector<kernel::PageRun> unwritten =
        kernel::subtract_runs(pages.all, vma.start, vma.end, pages.written);
    for (const kernel::PageRun& run : kernel::intersect_runs(pages_, unwritten)) {
      kernel::append_run(clean, run);
    }
  }
  return clean;
}

void RepeatWatch::protect(const std::vector<kernel::Vma>& map) const {
  for (const kernel::Vma& vma : map) {
    if (is_worth_watching(vma) && watch_.enlist(vma)) map_.protect_written(vma.start, vma.end);
  }
}

void RepeatWatch::remember(std::string node, std::vector<std::byte> token,
                           std::vector<kernel::PageRun> pages) {
  node_ = std::move(node);
  token_ = std::move(token);
  pages_ = std::move(pages);
}

}  // namespace telefork::session
