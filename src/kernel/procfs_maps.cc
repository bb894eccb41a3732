#include "kernel/procfs_maps.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/error.h"
#include "kernel/proc_file.h"
#include "kernel/procfs_file.h"
#include "kernel/text_scanner.h"

namespace telefork::kernel {
namespace {

constexpr std::string_view kDeleted = " (deleted)";

struct FlagName {
  std::string_view letters;
  VmFlag flag;
};

constexpr std::array kFlagNames = {
    FlagName{"rd", VmFlag::kRead},        FlagName{"wr", VmFlag::kWrite},
    FlagName{"ex", VmFlag::kExecute},     FlagName{"sh", VmFlag::kShared},
    FlagName{"mr", VmFlag::kMayRead},     FlagName{"mw", VmFlag::kMayWrite},
    FlagName{"me", VmFlag::kMayExecute},  FlagName{"ms", VmFlag::kMayShare},
    FlagName{"gd", VmFlag::kGrowsDown},   FlagName{"pf", VmFlag::kPfnMap},
    FlagName{"dw", VmFlag::kDenyWrite},   FlagName{"lo", VmFlag::kLocked},
    FlagName{"io", VmFlag::kIo},          FlagName{"sr", VmFlag::kSequentialRead},
    FlagName{"rr", VmFlag::kRandomRead},  FlagName{"dc", VmFlag::kDontCopy},
    FlagName{"de", VmFlag::kDontExpand},  FlagName{"lf", VmFlag::kLockOnFault},
    FlagName{"ac", VmFlag::kAccount},     FlagName{"nr", VmFlag::kNoReserve},
    FlagName{"ht", VmFlag::kHugeTlb},     FlagName{"sf", VmFlag::kSync},
    FlagName{"nl", VmFlag::kNonLinear},   FlagName{"ar", VmFlag::kArch1},
    FlagName{"wf", VmFlag::kWipeOnFork},  FlagName{"dd", VmFlag::kDontDump},
    FlagName{"sd", VmFlag::kSoftDirty},   FlagName{"mm", VmFlag::kMixedMap},
    FlagName{"hg", VmFlag::kHugePage},    FlagName{"nh", VmFlag::kNoHugePage},
    FlagName{"mg", VmFlag::kMergeable},   FlagName{"um", VmFlag::kUffdMissing},
    FlagName{"uw", VmFlag::kUffdWp},      FlagName{"ui", VmFlag::kUffdMinor},
    FlagName{"ss", VmFlag::kShadowStack}, FlagName{"sl", VmFlag::kSealed},
    FlagName{"dp", VmFlag::kDroppable},   FlagName{"gu", VmFlag::kGuard},
    FlagName{"mt", VmFlag::kMte},         FlagName{"bt", VmFlag::kBti},
};

constexpr std::size_t kLetters = 'z' - 'a' + 1;

// Of two small letters, which all names of flags are.
constexpr std::size_t flag_index(char first, char second) {
  return static_cast<std::size_t>(first - 'a') * kLetters + static_cast<std::size_t>(second - 'a');
}

// A large map has tens of thousands of them.
constexpr std::array<std::uint64_t, kLetters* kLetters> kFlagsByLetters = [] {
  std::array<std::uint64_t, kLetters * kLetters> flags{};
  for (const FlagName& name : kFlagNames) {
    flags[flag_index(name.letters[0], name.letters[1])] = static_cast<std::uint64_t>(name.flag);
  }
  return flags;
}();

// 0: it is unknown.
std::uint64_t flag_of(std::string_view letters) {
  auto is_small = [](char c) { return c >= 'a' && c <= 'z'; };
  if (letters.size() != 2 || !is_small(letters[0]) || !is_small(letters[1])) return 0;
  return kFlagsByLetters[flag_index(letters[0], letters[1])];
}

unsigned device_number(TextScanner& scanner) {
  std::uint64_t value = scanner.hex();
  if (value > std::numeric_limits<unsigned>::max()) scanner.fail("a device number before this");
  return static_cast<unsigned>(value);
}

bool permission(TextScanner& scanner, char set, char unset) {
  char c = scanner.character();
  if (c != set && c != unset) scanner.fail(fmt::format("'{}' or '{}' before this", set, unset));
  return c == set;
}

void take_path(Vma& vma, std::string_view path) {
  // Only a file has a name that the kernel marks; "[anon: x (deleted)]" ends in a bracket.
  vma.deleted = path.ends_with(kDeleted);
  if (vma.deleted) path.remove_suffix(kDeleted.size());
  vma.path = unescape_octal(path);
}

// 7f00deadb000-7f00deadc000 r-xp 00001000 fe:00 1234   /usr/lib/libc.so.6
Vma parse_vma(TextScanner& scanner) {
  Vma vma;
  vma.start = RemotePtr(scanner.hex());
  scanner.expect('-');
  vma.end = RemotePtr(scanner.hex());
  scanner.expect(' ');
  vma.read = permission(scanner, 'r', '-');
  vma.write = permission(scanner, 'w', '-');
  vma.execute = permission(scanner, 'x', '-');
  vma.shared = permission(scanner, 's', 'p');
  scanner.expect(' ');
  vma.offset = scanner.hex();
  scanner.expect(' ');
  vma.dev_major = device_number(scanner);
  scanner.expect(':');
  vma.dev_minor = device_number(scanner);
  scanner.expect(' ');
  vma.inode = scanner.decimal();
  scanner.skip_blanks();
  take_path(vma, scanner.rest_of_line());
  return vma;
}

void append_vma(std::vector<Vma>& vmas, Vma vma, const TextScanner& scanner) {
  if (vma.start >= vma.end) scanner.fail("a VMA that is not empty before this");
  if (vma.start.value() % kPageSize != 0 || vma.end.value() % kPageSize != 0)
    scanner.fail("a VMA of whole pages before this");
  if (!vmas.empty() && vma.end <= vmas.back().end) scanner.fail("VMAs in order before this");
  // The kernel went on from the end of the last one, which has grown or been merged since then.
  while (!vmas.empty() && vmas.back().start >= vma.start) vmas.pop_back();
  if (!vmas.empty()) vmas.back().end = std::min(vmas.back().end, vma.start);
  if (vmas.size() == kMaxVmas) scanner.fail(fmt::format("at most {} VMAs", kMaxVmas));
  vmas.push_back(std::move(vma));
}

void take_flags(Vma& vma, std::string_view letters) {
  for (letters = trim(letters); !letters.empty(); letters = trim(letters)) {
    const std::string_view word = letters.substr(0, letters.find_first_of(" \t"));
    const std::uint64_t flag = flag_of(word);
    vma.flags |= flag;
    if (flag == 0) vma.unknown_flags.emplace_back(word);
    letters.remove_prefix(word.size());
  }
}

std::uint64_t kilobytes(std::string_view value, std::string_view what) {
  TextScanner scanner(value, what);
  scanner.skip_blanks();
  std::uint64_t amount = scanner.decimal();
  scanner.expect(" kB");
  return amount;
}

struct SizeField {
  std::string_view key;
  std::uint64_t Vma::*member;
};

constexpr std::array kSizeFields = {
    SizeField{"Rss", &Vma::rss_kb},
    SizeField{"Anonymous", &Vma::anonymous_kb},
    SizeField{"Swap", &Vma::swap_kb},
    SizeField{"Locked", &Vma::locked_kb},
    SizeField{"Private_Hugetlb", &Vma::private_huge_kb},
    SizeField{"Shared_Hugetlb", &Vma::shared_huge_kb},
    SizeField{"KernelPageSize", &Vma::kernel_page_kb},
};

// "Rss:    12 kB" and the like under a VMA; keys that are not wanted here are skipped.
void take_detail(Vma& vma, std::string_view key, std::string_view value, std::string_view what) {
  if (key == "VmFlags") return take_flags(vma, value);
  if (key == "ProtectionKey") {
    vma.protection_key = static_cast<int>(parse_decimal(value, what) & 0xff);
    return;
  }
  for (const SizeField& field : kSizeFields)
    if (field.key == key) vma.*field.member = kilobytes(value, what);
}

// The line of a VMA starts with an address, in lower case; every other line with a capital letter.
bool starts_detail(std::string_view line) {
  return !line.empty() && line.front() >= 'A' && line.front() <= 'Z';
}

}  // namespace

int Vma::protection() const {
  return (read ? PROT_READ : 0) | (write ? PROT_WRITE : 0) | (execute ? PROT_EXEC : 0);
}

bool Vma::is_anonymous() const {
  if (shared || inode != 0) return false;
  return path.empty() || is_heap() || is_stack() || path.starts_with("[anon:");
}

bool Vma::is_shared_anonymous() const {
  if (!shared || inode == 0) return false;
  // With a name given by prctl(PR_SET_VMA) the kernel writes [anon_shmem:name]. The inode of
  // "/dev/zero (deleted)" is on the kernel's own tmpfs; the device file itself is never deleted.
  return path.starts_with("[anon_shmem:") || (deleted && path == "/dev/zero") ||
         is_anonymous_hugetlb();
}

unsigned Vma::huge_shift() const {
  constexpr unsigned kKilobyte = 10;
  if (!has(VmFlag::kHugeTlb)) return 0;
  return static_cast<unsigned>(std::countr_zero(kernel_page_kb)) + kKilobyte;
}

bool Vma::is_vdso_or_vvar() const { return is_vdso() || path.starts_with("[vvar"); }

std::string_view vm_flag_name(VmFlag flag) {
  for (const FlagName& name : kFlagNames)
    if (name.flag == flag) return name.letters;
  return "??";
}

std::vector<Vma> parse_maps(std::string_view text, std::string_view what) {
  std::vector<Vma> vmas;
  TextScanner scanner(text, what);
  while (!scanner.at_end()) {
    Vma vma = parse_vma(scanner);
    append_vma(vmas, std::move(vma), scanner);
  }
  return vmas;
}

std::vector<Vma> parse_smaps(std::string_view text, std::string_view what) {
  std::vector<Vma> vmas;
  TextScanner scanner(text, what);
  while (!scanner.at_end()) {
    TextScanner here = scanner;
    std::string_view line = scanner.rest_of_line();
    if (!starts_detail(line)) {
      append_vma(vmas, parse_vma(here), scanner);
      continue;
    }
    std::size_t colon = line.find(':');
    if (vmas.empty() || colon == std::string_view::npos) here.fail("a VMA");
    take_detail(vmas.back(), line.substr(0, colon), line.substr(colon + 1), what);
  }
  return vmas;
}

namespace {

// Where there is such a file by the whole name the end of it is no mark.
std::vector<Vma> with_true_names(pid_t pid, std::vector<Vma> vmas) {
  for (Vma& vma : vmas) {
    if (!vma.deleted || vma.path.starts_with("/memfd:")) continue;
    const std::string name = vma.path + std::string(kDeleted);
    struct stat named {};
    if (::stat((root_path(pid) + name).c_str(), &named) != 0 || named.st_ino != vma.inode) continue;
    vma.path = name;
    vma.deleted = false;
  }
  return vmas;
}

}  // namespace

std::vector<Vma> read_maps(pid_t pid) {
  return with_true_names(pid,
                         parse_maps(read_proc_file(pid, "maps"), fmt::format("maps of {}", pid)));
}

std::vector<Vma> read_smaps(pid_t pid) {
  return with_true_names(
      pid, parse_smaps(read_proc_file(pid, "smaps"), fmt::format("smaps of {}", pid)));
}

}  // namespace telefork::kernel
