#include "capture/wanted_memory.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/remote_ptr.h"

namespace telefork::capture {
namespace {

using Extents = std::vector<std::pair<std::uint64_t, std::uint64_t>>;  // start, end

std::uint64_t size_of_union(Extents extents) {
  std::sort(extents.begin(), extents.end());
  std::uint64_t size = 0;
  std::uint64_t counted = 0;  // up to there
  for (const auto& [start, end] : extents) {
    if (end <= counted) continue;
    size += end - std::max(start, counted);
    counted = end;
  }
  return size;
}

// Memory that several may have mapped.
struct SharedPages {
  Extents reserved;
  std::uint64_t present = 0;  // bytes, at least

  std::uint64_t size() const { return std::max(size_of_union(reserved), present); }
};

std::uint64_t present_bytes(const kernel::Vma& vma) {
  return (vma.private_huge_kb + vma.shared_huge_kb) * 1024;
}

class HugePageCount {
 public:
  void add(const Mapping& mapping);
  void add_file(std::size_t index, const FileEntry& file);
  std::map<unsigned, std::uint64_t> pages() const;

 private:
  // An object of shared memory by its id, or a file by its index.
  using Key = std::pair<bool, std::uint64_t>;
  SharedPages& shared(unsigned shift, Key key) { return shared_[{shift, key}]; }

  std::map<unsigned, std::uint64_t> own_;  // bytes
  std::map<std::pair<unsigned, Key>, SharedPages> shared_;
};

// The kernel reserves all of a mapping when that is made (hugetlb_reserve_pages() in mm/hugetlb.c);
// with MAP_NORESERVE pages are taken one by one.
void HugePageCount::add(const Mapping& mapping) {
  const kernel::Vma& vma = mapping.vma;
  const unsigned shift = vma.huge_shift();
  if (shift == 0) return;
  const bool reserves = !vma.has(kernel::VmFlag::kNoReserve);
  if (!vma.shared) {
    // Of one of a file some of these may be the file's.
    own_[shift] += reserves ? vma.size() : mapping.file ? 0 : present_bytes(vma);
    return;
  }
  SharedPages& pages =
      shared(shift, mapping.file ? Key(true, *mapping.file) : Key(false, mapping.shared_id));
  if (reserves || mapping.segment) pages.reserved.emplace_back(vma.offset, vma.offset + vma.size());
  pages.present = std::max(pages.present, present_bytes(vma));
}

void HugePageCount::add_file(std::size_t index, const FileEntry& file) {
  if (!file.moves() || file.huge_shift() == 0) return;
  constexpr std::uint64_t kBlock = 512;  // stat(2)
  SharedPages& pages = shared(file.huge_shift(), Key(true, index));
  pages.present = std::max(pages.present, static_cast<std::uint64_t>(file.stat.st_blocks) * kBlock);
}

std::map<unsigned, std::uint64_t> HugePageCount::pages() const {
  std::map<unsigned, std::uint64_t> bytes = own_;
  for (const auto& [key, pages] : shared_) bytes[key.first] += pages.size();
  std::map<unsigned, std::uint64_t> count;
  for (const auto& [shift, size] : bytes) {
    if (size != 0) count[shift] = size >> shift;
  }
  return count;
}

}  // namespace

WantedMemory find_wanted_memory(const TreeSurvey& tree) {
  WantedMemory wanted;
  HugePageCount count;
  std::set<int> known;
  for (const Survey& member : tree.members) {
    for (const Mapping& mapping : member.mappings) {
      count.add(mapping);
      if (mapping.segment && known.insert(mapping.segment->id).second) {
        wanted.segments.push_back(*mapping.segment);
      }
    }
  }
  const auto& files = tree.first().files.entries();
  for (std::size_t i = 0; i < files.size(); ++i) count.add_file(i, files[i]);
  wanted.huge_pages = count.pages();
  return wanted;
}

}  // namespace telefork::capture
