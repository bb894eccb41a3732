#include "session/kept_guest.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file_io.h"
#include "kernel/procfs.h"
#include "kernel/procfs_maps.h"
#include "kernel/userfault.h"
#include "kernel/write_watch.h"
#include "net/fd_passing.h"
#include "session/data_bytes.h"
#include "session/guard_channel.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;
using protocol::schema::Message;
using restore::KeptImage;
using Purpose = image::schema::Header::Purpose;

constexpr std::chrono::milliseconds kFilePatience = 2s;  // for a file that is being made
constexpr std::size_t kPagesOfMessage = 16384;           // in at most as many runs
constexpr std::size_t kBuffer = 256 * 1024;

kernel::PageRun run_between(RemotePtr start, RemotePtr end) {
  return {start, (end - start) / kPageSize};
}

void fill_pages(std::span<const KeptImage::Entry> pages, bool with_hashes,
                protocol::schema::KeptPages::Builder message) {
  std::vector<kernel::PageRun> runs;
  std::vector<KeptImage::Hash> hashes;
  for (const KeptImage::Entry& page : pages) {
    kernel::append_run(runs, {RemotePtr(page.address), 1});
    if (with_hashes) hashes.push_back(page.hash);
  }
  auto list = message.initRuns(static_cast<unsigned>(runs.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    list[i].setStart(runs[i].start.value());
    list[i].setPages(runs[i].pages);
  }
  message.setHashes(as_data(std::as_bytes(std::span(hashes))));
}

}  // namespace

KeptGuest::KeptGuest(UniqueFd channel, std::vector<std::byte> name, std::uint64_t most)
    : channel_(std::move(channel)), name_(std::move(name)), most_(most) {}

void KeptGuest::send_word(std::byte word, int fd) const {
  std::vector<std::byte> bytes{word};
  bytes.insert(bytes.end(), name_.begin(), name_.end());
  net::send_fds(channel_.get(), bytes, fd < 0 ? std::span<const int>() : std::span(&fd, 1));
}

// A telepad that has ended keeps nothing, and the guest lives on without it.
void KeptGuest::try_send_word(std::byte word) const {
  try {
    send_word(word);
  } catch (const Error& error) {
    if (error.error() != EPIPE && error.error() != ECONNRESET) throw;
  }
}

void KeptGuest::ask() const { try_send_word(kTakeKept); }

void KeptGuest::announce() const { try_send_word(kKeepSoon); }

// Whatever is in the way: all comes from home then.
void KeptGuest::take_image(std::chrono::milliseconds patience) {
  try {
    std::array<std::byte, 1> answer{};
    net::ReceivedFds received =
        net::receive_fds(channel_.get(), answer, 1, net::Deadline::in(patience));
    if (!received.fds.empty()) {
      image_.emplace(KeptImage::open(std::move(received.fds[0]), most_));
      return;
    }
  } catch (const Error&) {
  }
  image_.emplace(KeptImage::make(most_));
}

void KeptGuest::offer(protocol::Link& link, std::chrono::milliseconds most,
                      std::span<const std::byte> known) {
  take_image(std::min(most, kFilePatience));
  if (image_->pages().empty() || !std::ranges::equal(known, image_->token())) {
    return tell_pages(link, true);
  }
  link.send([&](Message::Builder message) {
    auto kept = message.initKept();
    kept.setSecret(as_data(image_->secret()));
    kept.setToken(as_data(image_->token()));
    kept.setKnown(true);
    kept.setLast(true);
  });
}

void KeptGuest::tell(protocol::Link& link) const {
  if (is_kept_) tell_pages(link, false);
}

void KeptGuest::tell_pages(protocol::Link& link, bool with_hashes) const {
  std::span<const KeptImage::Entry> rest = image_->pages();
  do {
    const auto part = rest.first(std::min(rest.size(), kPagesOfMessage));
    rest = rest.subspan(part.size());
    link.send([&](Message::Builder message) {
      auto kept = message.initKept();
      if (with_hashes) kept.setSecret(as_data(image_->secret()));
      fill_pages(part, with_hashes, kept);
      kept.setToken(as_data(image_->token()));
      kept.setLast(rest.empty());
    });
  } while (!rest.empty());
}

std::optional<KeptGuest> begin_to_keep(protocol::schema::Prepare::Reader task,
                                       const UniqueFd& channel, std::uint64_t most_kb) {
  const ::capnp::Data::Reader name = task.getKeep();
  if (name.size() == 0) return std::nullopt;
  if (name.size() != kKeptNameSize || task.getPurpose() != Purpose::RUN_ON || !channel ||
      most_kb == 0) {
    throw Error(Code::kCorrupt, "what it leaves is to be kept, which is not done here");
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(name.begin());
  KeptGuest guest(channel.duplicate(), {bytes, bytes + name.size()}, most_kb * 1024);
  guest.ask();
  return guest;
}

bool may_follow(kernel::PageMapAbi abi) {
  return abi != kernel::PageMapAbi::kEntries &&
         kernel::find_fault_bar(false) == kernel::FaultBar::kNone;
}

void KeptGuest::read(RemotePtr at, std::span<std::byte> to) {
  image_->read(at, to);
  kernel::append_run(came_, {at, to.size() / kPageSize});
}

void KeptGuest::serve(std::unique_ptr<net::Stream> stream, const restore::LazyMemory& lazy) {
  migrate::KeptMemory memory;
  for (const kernel::PageRun& range : lazy.ranges) {
    for (const kernel::PageRun& run :
         kernel::subtract_runs({range}, range.start, range.end(), lazy.arrived)) {
      kernel::append_run(memory.pages, run);
    }
  }
  came_ = kernel::unite_runs(came_, memory.pages);
  memory.read = [this](RemotePtr at, std::span<std::byte> to) { image_->read(at, to); };
  server_ = std::make_unique<migrate::PageServer>(std::move(stream), memory);
}

void KeptGuest::keep(pid_t guest, kernel::PageMapAbi abi,
                     const std::vector<kernel::PageRun>& changed,
                     const std::vector<kernel::PageRun>& missing) {
  server_.reset();
  try {
    put_all(guest, abi, changed, missing);
    const UniqueFd file = image_->close();
    send_word(kKeep, file.get());
    is_kept_ = true;
  } catch (const Error&) {
    // It is home. The next one brings all of its memory.
  }
}

void KeptGuest::put_all(pid_t guest, kernel::PageMapAbi abi,
                        const std::vector<kernel::PageRun>& changed,
                        const std::vector<kernel::PageRun>& missing) {
  const kernel::PageMap map(guest, abi);
  const UniqueFd memory = open_file(kernel::mem_path(guest), O_RDONLY);
  MappedRegion buffer(kBuffer);
  for (const kernel::Vma& vma : kernel::read_maps(guest)) {
    if (vma.shared || vma.is_vdso_or_vvar() || vma.is_vsyscall()) continue;
    const std::vector<kernel::PageRun> there =
        map.private_pages(vma.start, vma.end, kernel::PageMap::kind_of(vma));
    const std::vector<kernel::PageRun> same = kernel::unite_runs(
        kernel::subtract_runs(kernel::intersect_runs(there, came_), vma.start, vma.end, changed),
        kernel::subtract_runs(missing, vma.start, vma.end, {}));
    RemotePtr at = vma.start;
    for (const kernel::PageRun& run : same) {
      put_read(memory, kernel::intersect_runs(there, {run_between(at, run.start)}), buffer);
      image_->put_again(run.start, run.pages);
      at = run.end();
    }
    put_read(memory, kernel::intersect_runs(there, {run_between(at, vma.end)}), buffer);
  }
}

void KeptGuest::put_read(const UniqueFd& memory, const std::vector<kernel::PageRun>& runs,
                         const MappedRegion& buffer) {
  for (const kernel::PageRun& run : runs) {
    for (RemotePtr at = run.start; at < run.end();) {
      const std::span<std::byte> bytes =
          buffer.bytes().first(std::min<std::uint64_t>(buffer.size(), run.end() - at));
      const ssize_t count =
          ::pread(memory.get(), bytes.data(), bytes.size(), static_cast<off_t>(at.value()));
      // A guard page (kernel/pagemap.h).
      if (count < static_cast<ssize_t>(kPageSize)) {
        at = at + kPageSize;
        continue;
      }
      const std::size_t whole = round_down(static_cast<std::uint64_t>(count), kPageSize);
      image_->put(at, bytes.first(whole));
      at = at + whole;
    }
  }
}

}  // namespace telefork::session
