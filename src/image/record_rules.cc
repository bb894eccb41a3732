#include "image/record_rules.h"

#include <iterator>

#include <fmt/format.h>

#include "base/error.h"
#include "base/remote_ptr.h"

namespace telefork::image {
namespace {

constexpr std::uint32_t bit(RecordType type) { return 1u << static_cast<unsigned>(type); }

constexpr std::uint32_t kOnce =
    bit(RecordType::kHeader) | bit(RecordType::kProcess) | bit(RecordType::kCommand) |
    bit(RecordType::kFreezeMark) | bit(RecordType::kFiles) | bit(RecordType::kSockets) |
    bit(RecordType::kTimers) | bit(RecordType::kSignals) | bit(RecordType::kEnd);

constexpr std::uint32_t kWithCommand = bit(RecordType::kHeader) | bit(RecordType::kCommand) |
                                       bit(RecordType::kFileContent) | bit(RecordType::kFiles) |
                                       bit(RecordType::kEnd);

template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(Code::kCorrupt, fmt::format(format, std::forward<Args>(args)...));
}

// Runs rise, do not overlap, and lie in the VMA [start, end).
class RunCheck {
 public:
  void add(schema::PageRun::Reader run, std::uint64_t start, std::uint64_t end) {
    const std::uint64_t at = run.getStart();
    if (at % kPageSize != 0) refuse("its page run at {:#x} does not begin on a page", at);
    if (at < start || at < free_from_ || at >= end || run.getPages() > (end - at) / kPageSize) {
      refuse("its page run of {} pages at {:#x} overlaps or leaves the VMA {:#x}-{:#x}",
             run.getPages(), at, start, end);
    }
    if (run.getPages() == 0) refuse("its page run at {:#x} is empty", at);
    free_from_ = at + run.getPages() * kPageSize;
    pages_ += run.getPages();
  }
  std::uint64_t pages() const { return pages_; }

 private:
  std::uint64_t free_from_ = 0;
  std::uint64_t pages_ = 0;
};

}  // namespace

void check_format_version(std::uint32_t version) {
  if (version > kFormatVersion) {
    refuse("it has image format {}, this telefork reads formats up to {}: use a newer telefork",
           version, kFormatVersion);
  }
  if (version < kOldestReadableVersion) {
    refuse("it has image format {}, this telefork reads formats from {} on", version,
           kOldestReadableVersion);
  }
}

void RecordRules::check(const Record& record) {
  check_order(record);
  if (record.type() == RecordType::kVma) check_vma(record.get<schema::Vma>());
  if (record.type() == RecordType::kPages) check_pages(record);
  if (record.type() == RecordType::kFileContent) check_file_content(record);
}

void RecordRules::check_order(const Record& record) {
  const RecordType type = record.type();
  const std::uint32_t mine = bit(type);
  if (count_ == 0 && type != RecordType::kHeader) refuse("an image begins with its header");
  const bool subject = type == RecordType::kProcess || type == RecordType::kCommand;
  if (count_ > 0 && (count_ == 1) != subject) {
    refuse("a process or a command is what comes after the header, and nowhere else");
  }
  if ((mine & kOnce & seen_) != 0) refuse("there was such a record before");
  if ((seen_ & bit(RecordType::kCommand)) != 0 && (mine & kWithCommand) == 0) {
    refuse("a command has no such record");
  }
  if (type == RecordType::kHeader) {
    goes_home_ = record.get<schema::Header>().getPurpose() == schema::Header::Purpose::RETURN;
  }
  seen_ |= mine;
  ++count_;
}

void RecordRules::check_vma(schema::Vma::Reader vma) {
  const std::uint64_t start = vma.getStart();
  const std::uint64_t end = vma.getEnd();
  if (start >= end || start % kPageSize != 0 || end % kPageSize != 0) {
    refuse("{:#x}-{:#x} is no range of pages", start, end);
  }
  const auto after = vmas_.lower_bound(start);
  if (after != vmas_.end() && after->first < end) {
    refuse("the VMA {:#x}-{:#x} overlaps the one at {:#x}", start, end, after->first);
  }
  if (after != vmas_.begin() && std::prev(after)->second > start) {
    refuse("the VMA {:#x}-{:#x} overlaps the one at {:#x}", start, end, std::prev(after)->first);
  }
  RunCheck check;
  for (schema::PageRun::Reader run : vma.getGuardRuns()) check.add(run, start, end);
  vmas_.emplace_hint(after, start, end);
}

std::uint64_t RecordRules::check_runs(::capnp::List<schema::PageRun>::Reader runs) const {
  RunCheck check;
  for (schema::PageRun::Reader run : runs) {
    auto vma = vmas_.upper_bound(run.getStart());
    if (vma == vmas_.begin() || std::prev(vma)->second <= run.getStart()) {
      refuse("its page run at {:#x} is in no VMA that came before it", run.getStart());
    }
    --vma;
    check.add(run, vma->first, vma->second);
  }
  return check.pages();
}

void RecordRules::check_pages(const Record& record) {
  auto pages = record.get<schema::Pages>();
  if (pages.getDropped().size() > 0 && !goes_home_) {
    refuse("it drops pages, which only an image of the way home does");
  }
  check_runs(pages.getDropped());
  const std::uint64_t bytes = check_runs(pages.getRuns()) * kPageSize;
  if (bytes != record.payload_bytes()) {
    refuse("its runs are {} bytes of pages, its payload {}", bytes, record.payload_bytes());
  }
}

void RecordRules::check_file_content(const Record& record) {
  const auto content = record.get<schema::FileContent>();
  if (content.getSize() != record.payload_bytes()) {
    refuse("it is of {} bytes, its payload of {}", content.getSize(), record.payload_bytes());
  }
  if (content.getId() == 0 || !contents_.insert(content.getId()).second) {
    refuse("its id {} is 0 or was there before", content.getId());
  }
}

}  // namespace telefork::image
