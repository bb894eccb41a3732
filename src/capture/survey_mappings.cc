// Sorts the memory map by what becomes of each VMA.
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "capture/survey.h"

namespace telefork::capture {
namespace {

using kernel::Vma;
using kernel::VmFlag;
using Kind = image::schema::Vma::Kind;

std::string describe(const Vma& vma) {
  return fmt::format("mapping {:#x}-{:#x} of {}", vma.start.value(), vma.end.value(),
                     vma.path.empty() ? "anonymous memory" : vma.path);
}

// As far as a quick survey can tell.
bool may_write(const Vma& vma) { return vma.write || vma.has(VmFlag::kMayWrite); }

// mmap and mprotect give PROT_EXEC alone a key of the kernel's own (__arch_override_mprotect_pkey
// in arch/x86/mm/pkeys.c); the destination's kernel does the same.
bool is_execute_only(const Vma& vma) { return vma.protection() == PROT_EXEC; }

// Why the memory behind a VMA cannot be captured, whatever it maps; nothing: it can.
std::optional<Refusal> refuse_by_flags(const Vma& vma) {
  struct Rule {
    VmFlag flag;
    const char* why;
    const char* remedy;
  };
  static constexpr Rule kRules[] = {
      {VmFlag::kHugeTlb, "hugetlb memory cannot be captured yet", "use transparent huge pages"},
      {VmFlag::kUffdMissing, "a userfaultfd of the program watches it",
       "end that use of userfaultfd"},
      {VmFlag::kUffdWp, "a userfaultfd of the program watches it", "end that use of userfaultfd"},
      {VmFlag::kUffdMinor, "a userfaultfd of the program watches it",
       "end that use of userfaultfd"},
      {VmFlag::kIo, "device memory cannot move", "have the program close the device"},
      {VmFlag::kPfnMap, "device memory cannot move", "have the program close the device"},
      {VmFlag::kMixedMap, "device memory cannot move", "have the program close the device"},
      {VmFlag::kShadowStack, "a shadow stack cannot be restored yet",
       "start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off"},
      {VmFlag::kSealed, "mseal'ed memory cannot be restored yet", ""},
      {VmFlag::kDroppable, "droppable memory cannot be restored yet", ""},
  };
  for (const Rule& rule : kRules) {
    if (vma.has(rule.flag)) return Refusal{describe(vma), rule.why, rule.remedy};
  }
  if (!vma.unknown_flags.empty()) {
    return Refusal{describe(vma),
                   "it has a flag that telefork does not know: " + vma.unknown_flags[0], ""};
  }
  if (vma.protection_key != 0 && !is_execute_only(vma)) {
    return Refusal{describe(vma), "memory protection keys cannot be restored yet", ""};
  }
  return std::nullopt;
}

// Where to open the file behind a VMA: the very file if this process may, else by its path.
std::string open_path_of(pid_t pid, const Vma& vma) {
  std::string exact = kernel::map_files_path(pid, vma);
  return ::access(exact.c_str(), R_OK) == 0 ? exact : kernel::root_path(pid) + vma.path;
}

std::optional<std::size_t> add_file(const Vma& vma, Survey& survey) {
  std::string path = open_path_of(survey.pid, vma);
  try {
    std::size_t index = survey.files.add(path, vma.path, vma.deleted);
    const FileEntry& file = survey.files.entries()[index];
    if (file.stat.st_ino == vma.inode && S_ISREG(file.stat.st_mode)) return index;
    survey.refusals.push_back({describe(vma),
                               S_ISREG(file.stat.st_mode)
                                   ? "the file was replaced since it was mapped, and this user may "
                                     "not open the old one"
                                   : "the mapping of a device cannot move",
                               S_ISREG(file.stat.st_mode) ? "restart the program, or ask as root"
                                                          : "have the program close the device"});
  } catch (const Error& error) {
    survey.refusals.push_back({describe(vma), error.text(), ""});
  }
  return std::nullopt;
}

void survey_shared_file(const SurveyOptions& options, Mapping& mapping, Survey& survey) {
  const Vma& vma = mapping.vma;
  mapping.kind = Kind::SHARED_FILE;
  bool memory_file = vma.path.starts_with("/memfd:") || vma.path.starts_with("/SYSV") ||
                     vma.path.starts_with("/dev/shm/");
  if (memory_file && may_write(vma)) {
    if (options.copy_shared) {
      mapping.kind = Kind::SHARED_ANONYMOUS;
      mapping.shared_id = vma.inode;
      return;
    }
    survey.refusals.push_back({describe(vma), "memory that others may share stays at home",
                               "have a copy of it made with --shared=copy"});
    return;
  }
  mapping.file = add_file(vma, survey);
  if (mapping.file && may_write(vma)) {
    survey.files.entries()[*mapping.file].must_be_same = true;
  }
}

void survey_shared_memory(const SurveyOptions& options, Mapping& mapping, Survey& survey) {
  mapping.kind = Kind::SHARED_ANONYMOUS;
  mapping.shared_id = mapping.vma.inode;
  if (options.copy_shared) return;
  survey.refusals.push_back({describe(mapping.vma),
                             "memory shared with processes that stay cannot move",
                             "have a copy of it made with --shared=copy"});
}

// Whether another process maps the same shared memory.
bool has_sharer(const SurveyOptions& options, const Survey& survey, const Vma& vma) {
  if (options.sharer != 0) return true;
  for (pid_t other : kernel::list_processes()) {
    if (other == survey.pid) continue;
    try {
      for (const Vma& theirs : kernel::read_maps(other)) {
        if (theirs.shared && theirs.inode == vma.inode && theirs.dev_major == vma.dev_major &&
            theirs.dev_minor == vma.dev_minor) {
          return true;
        }
      }
    } catch (const Error& error) {
      // Ended meanwhile, or another user's, which cannot have got this memory by fork.
      if (error.code() != Code::kGone && error.error() != EACCES && error.error() != EPERM) throw;
    }
  }
  return false;
}

void sort_mapping(const SurveyOptions& options, Mapping& mapping, Survey& survey) {
  const Vma& vma = mapping.vma;
  if (vma.is_vdso_or_vvar()) {
    mapping.kind = vma.is_vdso() ? Kind::VDSO : Kind::VVAR;
    return;
  }
  if (vma.is_vsyscall()) {
    mapping.kind = Kind::VSYSCALL;
    return;
  }
  if (std::optional<Refusal> refusal = refuse_by_flags(vma)) {
    survey.refusals.push_back(*refusal);
    return;
  }
  if (vma.is_shared_anonymous()) {
    if (has_sharer(options, survey, vma)) {
      survey_shared_memory(options, mapping, survey);
    } else {
      mapping.kind = Kind::SHARED_ANONYMOUS;
      mapping.shared_id = vma.inode;
    }
  } else if (vma.is_file() && vma.shared) {
    survey_shared_file(options, mapping, survey);
  } else if (vma.is_file()) {
    mapping.kind = Kind::PRIVATE_FILE;
    mapping.file = add_file(vma, survey);
  } else if (vma.shared) {
    survey.refusals.push_back({describe(vma), "shared memory of an unknown kind cannot move", ""});
  } else {
    mapping.kind = vma.has(VmFlag::kGrowsDown) ? Kind::STACK : Kind::ANONYMOUS;
  }
}

}  // namespace

void survey_mappings(const SurveyOptions& options, Survey& survey) {
  std::vector<Vma> maps =
      options.quick ? kernel::read_maps(survey.pid) : kernel::read_smaps(survey.pid);
  for (Vma& vma : maps) {
    Mapping mapping{std::move(vma), Kind::ANONYMOUS, std::nullopt, 0};
    sort_mapping(options, mapping, survey);
    survey.mappings.push_back(std::move(mapping));
  }
  try {
    survey.executable =
        survey.files.add(kernel::exe_path(survey.pid), kernel::read_exe_link(survey.pid), false);
  } catch (const Error& error) {
    survey.refusals.push_back(
        {fmt::format("process {}", survey.pid), "its program file: " + error.text(), ""});
  }
}

}  // namespace telefork::capture
