// Sorts the memory map by what becomes of each VMA.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <map>
#include <set>
#include <tuple>

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "capture/survey.h"
#include "image/content_file.h"
#include "image/format.h"
#include "image/named_memory.h"

namespace telefork::capture {
namespace {

using kernel::Vma;
using kernel::VmFlag;
using VmaKind = image::schema::Vma::Kind;

std::string describe(const Vma& vma) {
  return fmt::format("mapping {:#x}-{:#x} of {}", vma.start.value(), vma.end.value(),
                     vma.path.empty() ? "anonymous memory" : vma.path);
}

// Shared memory may be written to where the file was opened for writing. Without flags the mode
// of the link tells (proc_map_files_instantiate in fs/proc/base.c).
bool may_write(pid_t pid, const Vma& vma) {
  if (vma.write || vma.flags != 0) return vma.write || vma.has(VmFlag::kMayWrite);
  struct stat stat;
  return ::lstat(kernel::map_files_path(pid, vma).c_str(), &stat) == 0 &&
         (stat.st_mode & S_IWUSR) != 0;
}

// mmap and mprotect give PROT_EXEC alone a key of the kernel's own (__arch_override_mprotect_pkey
// in arch/x86/mm/pkeys.c); the destination's kernel does the same.
bool is_execute_only(const Vma& vma) { return vma.protection() == PROT_EXEC; }

bool is_memory_file(const Vma& vma) {
  return vma.deleted && vma.path.starts_with(kMemoryFilePrefix);
}

// What lies in no file of a hugetlbfs that somebody has mounted. Of shared anonymous memory only
// its file tells what is in it without filling its holes, for which there need be no pages where
// they were not reserved.
bool is_movable_hugetlb(pid_t pid, const Vma& vma) {
  constexpr std::uint64_t kMostKb = std::uint64_t{1} << (image::kMostHugeShift - 10);
  if (!std::has_single_bit(vma.kernel_page_kb) || vma.kernel_page_kb > kMostKb) return false;
  if (vma.is_shared_anonymous() && vma.has(VmFlag::kNoReserve)) {
    return ::access(kernel::map_files_path(pid, vma).c_str(), R_OK) == 0;
  }
  return vma.is_anonymous_hugetlb() || is_memory_file(vma) || vma.is_system_v();
}

// Memory that is made anew by its flags, where the whole process moves.
bool is_made_anew(pid_t pid, const Vma& vma, VmFlag flag) {
  if (flag == VmFlag::kSealed || flag == VmFlag::kDroppable) return true;
  return flag == VmFlag::kHugeTlb && is_movable_hugetlb(pid, vma);
}

// Why the memory behind a VMA cannot be captured, whatever it maps; nothing: it can.
std::optional<Refusal> refuse_by_flags(Survey& survey, const Vma& vma) {
  struct Pair {
    VmFlag flag;
    Reason reason;
  };
  static constexpr Pair kPairs[] = {
      {VmFlag::kHugeTlb, Reason::kHugeTlb},       {VmFlag::kUffdMissing, Reason::kUserfaultfd},
      {VmFlag::kUffdWp, Reason::kUserfaultfd},    {VmFlag::kUffdMinor, Reason::kUserfaultfd},
      {VmFlag::kIo, Reason::kDeviceMemory},       {VmFlag::kPfnMap, Reason::kDeviceMemory},
      {VmFlag::kMixedMap, Reason::kDeviceMemory}, {VmFlag::kShadowStack, Reason::kShadowStack},
      {VmFlag::kSealed, Reason::kSealed},         {VmFlag::kDroppable, Reason::kDroppable},
  };
  for (const Pair& pair : kPairs) {
    if (!vma.has(pair.flag)) continue;
    if (pair.flag == VmFlag::kUffdWp &&
        (is_in_a_call(survey) || may_be_watched_by_its_agent(survey))) {
      continue;
    }
    if (pair.flag == VmFlag::kUffdMissing && (is_in_a_call(survey) || is_guest(survey.pid))) {
      continue;
    }
    if (survey.whole && is_made_anew(survey.pid, vma, pair.flag)) continue;
    return refuse(describe(vma), pair.reason);
  }
  if (!vma.unknown_flags.empty()) {
    return refuse(describe(vma), Reason::kUnknownFlag, vma.unknown_flags[0]);
  }
  if (vma.protection_key != 0 && !is_execute_only(vma)) {
    return refuse(describe(vma), Reason::kProtectionKey);
  }
  if (vma.flags == 0 && vma.is_anonymous_hugetlb()) {
    return refuse(describe(vma), Reason::kHugeTlb);
  }
  return std::nullopt;
}

// aio_setup_ring() in fs/aio.c.
constexpr std::string_view kAioRingPath = "/[aio]";

// A descriptor of the process that names the file behind a VMA; empty: it has none.
std::string find_descriptor_of(pid_t pid, const Vma& vma) {
  for (int fd : kernel::list_fds(pid)) {
    std::string path = kernel::fd_open_path(pid, fd);
    struct stat stat;
    if (::stat(path.c_str(), &stat) == 0 && stat.st_ino == vma.inode &&
        stat.st_dev == makedev(vma.dev_major, vma.dev_minor)) {
      return path;
    }
  }
  return "";
}

// Where to open the file behind a VMA: the very file if this process may, else by its path.
std::string open_path_of(pid_t pid, const Vma& vma) {
  std::string exact = kernel::map_files_path(pid, vma);
  if (::access(exact.c_str(), R_OK) == 0) return exact;
  std::string open = vma.deleted ? find_descriptor_of(pid, vma) : "";
  return open.empty() ? kernel::root_path(pid) + vma.path : open;
}

// Private memory that is called so: anonymous to all but /proc/PID/maps (mmap_zero in
// drivers/char/mem.c). What is mapped shared is another thing, and is called deleted.
bool is_private_zero(const Vma& vma, const struct stat& stat) {
  return !vma.shared && S_ISCHR(stat.st_mode) && stat.st_rdev == makedev(1, 5);
}

std::optional<std::size_t> add_file(const Vma& vma, Survey& survey) {
  if (vma.path == kAioRingPath) {
    survey.refusals.push_back(refuse(describe(vma), Reason::kAioRing));
    return std::nullopt;
  }
  try {
    std::optional<std::size_t> known = survey.files.find(vma);
    std::size_t index =
        known ? *known : survey.files.add(open_path_of(survey.pid, vma), vma.path, vma.deleted);
    const FileEntry& file = survey.files.entries()[index];
    bool regular = S_ISREG(file.stat.st_mode);
    if (file.identity.fs_type == HUGETLBFS_MAGIC) {
      survey.refusals.push_back(refuse(describe(vma), Reason::kHugeTlb));
    } else if (!regular && !is_private_zero(vma, file.stat)) {
      survey.refusals.push_back(refuse(describe(vma), Reason::kDeviceMapping));
    } else if (file.stat.st_ino != vma.inode) {
      survey.refusals.push_back(refuse(describe(vma), Reason::kReplacedFile));
    } else {
      survey.files.entries()[index].access |= R_OK;
      return index;
    }
    survey.files.entries()[index].refused = true;
  } catch (const Error& error) {
    // No file can be opened by such a name: an io_uring's or a perf event's rings.
    Reason reason = Reason::kMappedFile;
    if (vma.path.starts_with("anon_inode:")) reason = Reason::kDeviceMemory;
    if (vma.deleted && error.error() == ENOENT) reason = Reason::kReplacedFile;
    survey.refusals.push_back(refuse(describe(vma), reason, error.text()));
  }
  return std::nullopt;
}

// One for all mappings of the same memory, whoever of a tree has them.
std::uint64_t shared_id_of(const Vma& vma, Survey& survey) {
  return survey.shared_ids.emplace(shared_object_of(vma), survey.shared_ids.size() + 1)
      .first->second;
}

bool is_mapped_twice(const Mapping& mapping, const Survey& survey) {
  const Vma& vma = mapping.vma;
  return std::any_of(survey.mappings.begin(), survey.mappings.end(), [&](const Mapping& other) {
    return other.shared_id == mapping.shared_id && other.vma.offset < vma.offset + vma.size() &&
           vma.offset < other.vma.offset + other.vma.size();
  });
}

// It becomes anonymous, where it is not. No mremap(2) makes another mapping of huge pages
// (mm/mremap.c).
void share_as_anonymous(Mapping& mapping, Survey& survey) {
  mapping.kind = VmaKind::SHARED_ANONYMOUS;
  mapping.shared_id = shared_id_of(mapping.vma, survey);
  if (!mapping.vma.has(VmFlag::kHugeTlb) || !is_mapped_twice(mapping, survey)) return;
  survey.refusals.push_back(refuse(describe(mapping.vma), Reason::kHugeTlb));
}

// A file in memory that has no name, on whichever tmpfs: nothing of it outlives its users.
bool is_nameless_memory(const Vma& vma) {
  if (vma.path.starts_with(kMemoryFilePrefix) || vma.path.starts_with("/SYSV")) return true;
  if (!vma.deleted) return false;
  std::vector<kernel::MountInfo> mounts = kernel::read_mountinfo(::getpid());
  return std::any_of(mounts.begin(), mounts.end(), [&vma](const kernel::MountInfo& mount) {
    return mount.filesystem == "tmpfs" && mount.dev_major == vma.dev_major &&
           mount.dev_minor == vma.dev_minor;
  });
}

// No process can write to it, whatever it has: fcntl(2), F_SEAL_WRITE. A mapping that could was in
// the way of the seal.
bool is_sealed(pid_t pid, const Vma& vma) {
  UniqueFd file(::open(kernel::map_files_path(pid, vma).c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return false;
  int seals = ::fcntl(file.get(), F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_WRITE) != 0;
}

// Whether its content is that of other processes too, or may be.
bool is_shared_memory(pid_t pid, const Vma& vma) {
  // What came with it from elsewhere, where it was a file that may only be read.
  if (vma.path == std::string("/memfd:") + image::kContentFileName) return false;
  if (may_write(pid, vma) && vma.path.starts_with(image::kNamedMemoryFolder)) return true;
  return is_nameless_memory(vma) && (may_write(pid, vma) || !is_sealed(pid, vma));
}

// A file that home has open or mapped, whatever has become of its name here.
bool is_homes(const SurveyOptions& options, const Vma& vma) {
  return options.originals &&
         options.originals(makedev(vma.dev_major, vma.dev_minor), vma.inode).has_value();
}

// A file without a name that nobody else has moves itself, and so with whatever descriptors name
// it. System V memory is no file to its users. False: it stays to be looked at.
bool try_move_file(const SurveyOptions& options, Mapping& mapping, Survey& survey) {
  const Vma& vma = mapping.vma;
  if (!moves_whole(options.purpose) || !vma.deleted || vma.is_system_v()) return false;
  const dev_t device = makedev(vma.dev_major, vma.dev_minor);
  // Who has it mapped private has what is in it at this instant.
  if (vma.shared && !options.copy_shared && survey.outside.find_file(device, vma.inode) != 0) {
    return false;
  }
  std::string path = open_path_of(survey.pid, vma);
  struct stat stat;
  if (::stat(path.c_str(), &stat) != 0 || stat.st_ino != vma.inode || stat.st_dev != device ||
      !S_ISREG(stat.st_mode) || ::access(path.c_str(), R_OK) != 0) {
    return false;
  }
  mapping.file = survey.files.add(path, vma.path, true);
  survey.files.move(*mapping.file, is_memory_file(vma) ? FileEntry::Content::MEMORY_FILE
                                                       : FileEntry::Content::UNLINKED_FILE);
  return true;
}

// A copy would be another one, by another name.
bool try_move_named_memory(const SurveyOptions& options, Mapping& mapping, Survey& survey) {
  const Vma& vma = mapping.vma;
  if (!moves_whole(options.purpose) || survey.original_stays || options.copy_shared ||
      vma.deleted || !image::is_named_memory(vma.path) || !may_write(survey.pid, vma)) {
    return false;
  }
  const dev_t device = makedev(vma.dev_major, vma.dev_minor);
  const std::string path = kernel::root_path(survey.pid) + vma.path;
  struct stat stat;
  const bool is_it = ::lstat(path.c_str(), &stat) == 0 && stat.st_ino == vma.inode &&
                     stat.st_dev == device && S_ISREG(stat.st_mode) && stat.st_nlink == 1;
  if (!is_it || ::access(path.c_str(), R_OK) != 0 || survey.outside.find_named(stat) != 0) {
    return false;
  }
  mapping.file = survey.files.add(path, vma.path, false);
  survey.files.move(*mapping.file, FileEntry::Content::NAMED_MEMORY);
  return true;
}

// A copy would be another one, by another id.
bool try_move_segment(const SurveyOptions& options, Mapping& mapping, Survey& survey) {
  if (!moves_whole(options.purpose) || survey.original_stays || options.copy_shared ||
      !mapping.vma.is_system_v()) {
    return false;
  }
  mapping.segment = find_own_segment(mapping.vma, survey.outside.movers());
  if (!mapping.segment) return false;
  mapping.kind = VmaKind::SHARED_ANONYMOUS;
  mapping.shared_id = shared_id_of(mapping.vma, survey);
  return true;
}

// No option of the way home makes copies: what was copied on the way there is the process's own.
Reason reason_there(const SurveyOptions& options, Reason reason) {
  const bool homewards = options.purpose == Purpose::kReturn || options.purpose == Purpose::kHome;
  return homewards ? Reason::kSharedThere : reason;
}

void survey_shared_file(const SurveyOptions& options, Mapping& mapping, Survey& survey) {
  const Vma& vma = mapping.vma;
  mapping.kind = VmaKind::SHARED_FILE;
  if (try_move_file(options, mapping, survey)) return;
  if (try_move_segment(options, mapping, survey)) return;
  if (try_move_named_memory(options, mapping, survey)) return;
  if (!is_homes(options, vma) && is_shared_memory(survey.pid, vma)) {
    if (options.copy_shared) return share_as_anonymous(mapping, survey);
    survey.refusals.push_back(refuse(describe(vma), reason_there(options, Reason::kMemoryFile)));
    return;
  }
  mapping.file = add_file(vma, survey);
  if (mapping.file && may_write(survey.pid, vma)) {
    survey.files.entries()[*mapping.file].must_be_same = true;
    survey.files.entries()[*mapping.file].access |= W_OK;
  }
}

void survey_shared_memory(const SurveyOptions& options, Mapping& mapping, Survey& survey) {
  share_as_anonymous(mapping, survey);
  if (options.copy_shared) return;
  if (options.sharer == 0 && !survey.outside.is_shared(mapping.vma)) return;
  survey.refusals.push_back(
      refuse(describe(mapping.vma), reason_there(options, Reason::kSharedMemory)));
}

void sort_mapping(const SurveyOptions& options, Mapping& mapping, Survey& survey) {
  const Vma& vma = mapping.vma;
  if (vma.is_vdso_or_vvar()) {
    mapping.kind = vma.is_vdso() ? VmaKind::VDSO : VmaKind::VVAR;
    return;
  }
  if (vma.is_vsyscall()) {
    mapping.kind = VmaKind::VSYSCALL;
    return;
  }
  if (std::optional<Refusal> refusal = refuse_by_flags(survey, vma)) {
    survey.refusals.push_back(*refusal);
    return;
  }
  if (vma.is_shared_anonymous()) {
    survey_shared_memory(options, mapping, survey);
  } else if (vma.is_anonymous_hugetlb()) {
    mapping.kind = VmaKind::ANONYMOUS;
  } else if (vma.is_file() && vma.shared) {
    survey_shared_file(options, mapping, survey);
  } else if (vma.is_file()) {
    mapping.kind = VmaKind::PRIVATE_FILE;
    // A copy of it in other pages could not be mapped like it.
    if (vma.has(VmFlag::kHugeTlb) && try_move_file(options, mapping, survey)) return;
    mapping.file = add_file(vma, survey);
  } else if (vma.shared) {
    survey.refusals.push_back(refuse(describe(vma), Reason::kUnknownShared));
  } else {
    mapping.kind = vma.has(VmFlag::kGrowsDown) ? VmaKind::STACK : VmaKind::ANONYMOUS;
  }
}

// What the kernel needs to tell the flags of every VMA: it formats a page of text for every five of
// them, and walks all page tables.
std::uint64_t cost_of_flags_ns(std::size_t vmas, std::uint64_t resident_kb) {
  constexpr std::uint64_t kPerVma = 6000;
  constexpr std::uint64_t kPerPage = 30;
  return vmas * kPerVma + resident_kb / 4 * kPerPage;
}

// Memory that is watched belongs to somebody who has the descriptor: most often the process.
bool has_userfaultfd(pid_t pid) {
  std::vector<int> fds = kernel::list_fds(pid);
  return std::any_of(fds.begin(), fds.end(), [pid](int fd) {
    try {
      return kernel::read_fd_link(pid, fd) == "anon_inode:[userfaultfd]";
    } catch (const Error& error) {
      if (error.code() != Code::kGone && error.error() != ENOENT) throw;
      return false;
    }
  });
}

bool is_same_mapping(const Vma& a, const Vma& b) {
  return a.start == b.start && a.end == b.end && a.protection() == b.protection() &&
         a.shared == b.shared && a.offset == b.offset && a.inode == b.inode &&
         a.dev_major == b.dev_major && a.dev_minor == b.dev_minor && a.path == b.path &&
         a.deleted == b.deleted;
}

// Whether `earlier` read the flags of all of `maps`, which then has them too.
bool take_flags(const Survey& earlier, std::vector<Vma>& maps) {
  if (earlier.mappings.size() != maps.size()) return false;
  for (std::size_t i = 0; i < maps.size(); ++i) {
    const Vma& before = earlier.mappings[i].vma;
    if (before.flags == 0 || !is_same_mapping(before, maps[i])) return false;
  }
  for (std::size_t i = 0; i < maps.size(); ++i) maps[i] = earlier.mappings[i].vma;
  return true;
}

std::vector<Vma> read_vmas(const SurveyOptions& options, const Survey& earlier,
                           const Survey& survey) {
  if (options.map != nullptr) return *options.map;
  if (!options.quick) return kernel::read_smaps(survey.pid);
  std::vector<Vma> maps = kernel::read_maps(survey.pid);
  if (take_flags(earlier, maps) && !has_userfaultfd(survey.pid)) return maps;
  bool cheap = cost_of_flags_ns(maps.size(), survey.status.resident_kb) <= kFlagsBudgetNs;
  if (!cheap && !has_userfaultfd(survey.pid)) return maps;
  return kernel::read_smaps(survey.pid);
}

// Those of vDSO and vvar are made anew wherever it comes to, from what they are there.
bool is_remade(const Mapping& mapping) {
  return mapping.kind == VmaKind::VDSO || mapping.kind == VmaKind::VVAR ||
         mapping.kind == VmaKind::VSYSCALL;
}

// What works in a process maps something there: the stub, and what a return replaces is there twice
// for an instant. At its way home it is home that counts.
void survey_count(const SurveyOptions& options, Survey& survey) {
  if (options.purpose == Purpose::kReturn) return;
  auto remade = std::count_if(survey.mappings.begin(), survey.mappings.end(), is_remade);
  std::size_t count = survey.mappings.size() - static_cast<std::size_t>(remade);
  std::uint64_t most = kernel::read_max_map_count();
  if (count + kernel::kOwnMappings <= most) return;
  survey.refusals.push_back(
      refuse(fmt::format("process {} ({})", survey.pid, survey.status.name), Reason::kManyMappings,
             fmt::format("{}, where vm.max_map_count is {}", survey.mappings.size(), most)));
}

// What of its memory and its registers is 32-bit, no image can hold.
bool is_32_bit(const FileTable& files, std::size_t program) {
  unsigned char head[EI_NIDENT] = {};
  return files.entries()[program].readable &&
         ::pread(files.open(program).get(), head, sizeof(head), 0) == sizeof(head) &&
         head[EI_CLASS] == ELFCLASS32;
}

void survey_program(Survey& survey) {
  std::string process = fmt::format("process {} ({})", survey.pid, survey.status.name);
  try {
    survey.executable =
        survey.files.add(kernel::exe_path(survey.pid), kernel::read_exe_link(survey.pid), false);
    if (is_32_bit(survey.files, *survey.executable)) {
      survey.refusals.push_back(refuse(process, Reason::kForeignProgram));
    }
  } catch (const Error& error) {
    survey.refusals.push_back(refuse(process, Reason::kProgramFile, error.text()));
  }
}

}  // namespace

bool is_guest(pid_t pid) {
  while (pid > 1) {
    if (kernel::read_comm(pid, pid) == "telefork-keeper") return true;
    pid = kernel::read_stat(pid).ppid;
  }
  // Of a pid namespace that its keeper has made for it.
  return pid == 1 && kernel::read_comm(pid, pid) == "telefork-init";
}

void survey_mappings(const SurveyOptions& options, const Survey& earlier, Survey& survey) {
  for (Vma& vma : read_vmas(options, earlier, survey)) {
    Mapping mapping{std::move(vma), VmaKind::ANONYMOUS, std::nullopt, 0};
    sort_mapping(options, mapping, survey);
    survey.mappings.push_back(std::move(mapping));
  }
  survey_count(options, survey);
  survey_program(survey);
}

}  // namespace telefork::capture
