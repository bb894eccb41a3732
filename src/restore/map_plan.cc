#include "restore/map_plan.h"

#include <algorithm>

#include <fmt/format.h>
#include <sys/sysmacros.h>

#include "base/error.h"
#include "kernel/procfs_system.h"

namespace telefork::restore {
namespace {

using image::schema::Vma;
using kernel::VmFlag;

// What an address means in the object that it maps.
bool is_congruent(const kernel::Vma& home, Vma::Reader image) {
  return home.offset - home.start.value() == image.getOffset() - image.getStart();
}

// By what is not its name, which may have changed meanwhile, here or there. Not known of
// filesystems that have other numbers in a map than in stat(2) (btrfs, overlayfs).
bool is_known_as_same(const kernel::Vma& home, image::schema::FileIdentity::Reader image) {
  static const std::string boot_id = kernel::read_boot_id();
  return image.getInode() == home.inode &&
         image.getDevice() == makedev(home.dev_major, home.dev_minor) &&
         image.getBootId() == boot_id.c_str();
}

bool is_same_file(const kernel::Vma& home, Vma::Reader image) {
  if (!home.is_file() || !is_congruent(home, image)) return false;
  if (is_known_as_same(home, image.getFile().getIdentity())) return true;
  std::string path = image.getFile().getPath();
  return home.path == path && home.deleted == image.getFile().getDeleted();
}

// Or a file in memory, of which the guest had a copy.
bool is_shared_memory(const kernel::Vma& home) {
  return home.is_shared_anonymous() ||
         (home.shared && home.is_file() && (home.deleted || home.path.starts_with("/dev/shm/")));
}

bool is_same_memory(const kernel::Vma& home, Vma::Reader image) {
  switch (image.getKind()) {
    case Vma::Kind::ANONYMOUS:
    case Vma::Kind::STACK:
      return home.is_anonymous() &&
             home.has(VmFlag::kGrowsDown) == has_flag(image, VmFlag::kGrowsDown);
    case Vma::Kind::PRIVATE_FILE:
      return !home.shared && is_same_file(home, image);
    case Vma::Kind::SHARED_FILE:
      return home.shared && is_same_file(home, image);
    case Vma::Kind::SHARED_ANONYMOUS:
      return is_shared_memory(home) && is_congruent(home, image);
    default:
      return false;
  }
}

bool is_kernels(const kernel::Vma& vma) { return vma.is_vdso_or_vvar() || vma.is_vsyscall(); }

// The ends of all VMAs, in order, each once.
std::vector<std::uint64_t> cuts_of(std::span<const kernel::Vma> home,
                                   std::span<const Vma::Reader> image, std::span<const Range> own) {
  std::vector<std::uint64_t> cuts;
  for (const Range& range : own) {
    cuts.push_back(range.start.value());
    cuts.push_back(range.end().value());
  }
  for (const kernel::Vma& vma : home) {
    cuts.push_back(vma.start.value());
    cuts.push_back(vma.end.value());
  }
  for (Vma::Reader vma : image) {
    cuts.push_back(vma.getStart());
    cuts.push_back(vma.getEnd());
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  return cuts;
}

MapPiece::Kind kind_of(const kernel::Vma* home, const Vma::Reader* image) {
  if (image == nullptr) return MapPiece::Kind::kRemove;
  if (home == nullptr) return MapPiece::Kind::kNew;
  return is_same_memory(*home, *image) ? MapPiece::Kind::kKeep : MapPiece::Kind::kReplace;
}

}  // namespace

std::vector<MapPiece> plan_map(std::span<const kernel::Vma> home,
                               std::span<const Vma::Reader> image, std::span<const Range> own) {
  std::vector<MapPiece> pieces;
  std::vector<std::uint64_t> cuts = cuts_of(home, image, own);
  auto here = home.begin();
  auto there = image.begin();
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    RemotePtr at(cuts[i]);
    while (here != home.end() && here->end <= at) ++here;
    while (there != image.end() && there->getEnd() <= at.value()) ++there;
    const kernel::Vma* old_one = here != home.end() && here->start <= at ? &*here : nullptr;
    const Vma::Reader* new_one =
        there != image.end() && there->getStart() <= at.value() ? &*there : nullptr;
    bool is_own = std::any_of(own.begin(), own.end(), [at](const Range& range) {
      return at >= range.start && at < range.end();
    });
    if (new_one != nullptr && is_kernels_own(*new_one)) new_one = nullptr;
    if (new_one != nullptr && is_own) {
      throw Error(Code::kRefused,
                  fmt::format("memory was mapped there at {:#x}, where telefork's own lies here",
                              at.value()));
    }
    if (is_own || (old_one != nullptr && is_kernels(*old_one))) continue;
    if (old_one == nullptr && new_one == nullptr) continue;
    pieces.push_back({kind_of(old_one, new_one), {at, cuts[i + 1] - cuts[i]}, old_one, new_one});
  }
  return pieces;
}

std::map<std::uint64_t, std::uint64_t> match_shared_memory(std::span<const MapPiece> pieces) {
  std::map<std::uint64_t, std::uint64_t> inodes;
  for (const MapPiece& piece : pieces) {
    if (piece.kind != MapPiece::Kind::kKeep) continue;
    if (piece.image->getKind() != Vma::Kind::SHARED_ANONYMOUS) continue;
    auto [known, is_new] = inodes.emplace(piece.image->getSharedId(), piece.home->inode);
    if (!is_new && known->second != piece.home->inode) {
      throw Error(Code::kRefused, fmt::format("the shared memory at {} is another one there",
                                              place_name(piece.range)));
    }
  }
  return inodes;
}

std::size_t most_vmas(std::span<const MapPiece> pieces) {
  std::size_t count = 0;
  for (const MapPiece& piece : pieces) {
    count += piece.kind == MapPiece::Kind::kReplace ? 2 : 1;
    if (piece.image != nullptr) count += 2 * piece.image->getGuardRuns().size();
  }
  return count;
}

}  // namespace telefork::restore
