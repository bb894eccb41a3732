#include "restore/segments.h"

#include <cerrno>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "kernel/system_v.h"
#include "restore/vma_rules.h"

namespace telefork::restore {
namespace {

using image::schema::Segment;

[[noreturn]] void refuse(Segment::Reader record, const std::string& why) {
  throw Error(Code::kRefused,
              fmt::format("its System V memory (id {}, key {:#x}) cannot be had here: {}",
                          record.getId(), record.getKey(), why));
}

[[noreturn]] void refuse_taken(Segment::Reader record, const char* otherwise) {
  const std::optional<SegmentInTheWay> taken = find_segment_in_the_way(record);
  if (!taken) refuse(record, otherwise);
  refuse(record, fmt::format("its {} is taken, by {}; `ipcrm -m {}`, if nobody needs that",
                             taken->name, taken->description, taken->id));
}

UniqueFd open_next_id() { return UniqueFd(::open(kernel::kNextSegmentPath, O_WRONLY | O_CLOEXEC)); }

void choose_next_id(Segment::Reader record) {
  const UniqueFd next = open_next_id();
  const std::string text = std::to_string(record.getId());
  if (next && ::write(next.get(), text.data(), text.size()) >= 0) return;
  refuse(record, fmt::format("to choose an id takes root (shm_next_id: {})", std::strerror(errno)));
}

void give_owner(Segment::Reader record, int id) {
  shmid_ds about{};
  if (::shmctl(id, IPC_STAT, &about) != 0) throw_errno("asking for System V memory");
  about.shm_perm.uid = record.getUid();
  about.shm_perm.gid = record.getGid();
  about.shm_perm.mode = record.getMode() & 0777;
  if (::shmctl(id, IPC_SET, &about) == 0) return;
  refuse(record, fmt::format("giving it its owner: {}", std::strerror(errno)));
}

SegmentInTheWay describe_segment(const char* name, int id, const shmid_ds& about) {
  return {name, id,
          fmt::format("id {} ({} bytes, made by process {}, of user {}, attached by {})", id,
                      about.shm_segsz, about.shm_cpid, about.shm_perm.uid, about.shm_nattch)};
}

}  // namespace

// An id has a place, with other ids of which it may be taken as well: SHM_STAT_ANY (Linux 4.17)
// takes any of these, and tells whose place it is (ipcid_to_idx() in ipc/util.h).
std::optional<SegmentInTheWay> find_segment_in_the_way(Segment::Reader wanted) {
  shmid_ds about{};
  if (const int id = ::shmctl(wanted.getId(), SHM_STAT_ANY, &about); id >= 0) {
    return describe_segment("id", id, about);
  }
  const auto key = static_cast<key_t>(wanted.getKey());
  const int id = key == IPC_PRIVATE ? -1 : ::shmget(key, 0, 0);
  if (id < 0 || ::shmctl(id, SHM_STAT_ANY, &about) < 0) return std::nullopt;
  return describe_segment("key", id, about);
}

bool may_choose_segment_ids() { return static_cast<bool>(open_next_id()); }

Segments::~Segments() {
  for (const auto& [id, marked] : made_) ::shmctl(id, IPC_RMID, nullptr);
}

int Segments::get(Segment::Reader record, unsigned huge_shift) {
  if (made_.contains(record.getId())) return record.getId();
  choose_next_id(record);
  const auto key = static_cast<key_t>(record.getKey());
  const int huge = huge_shift != 0 ? SHM_HUGETLB | huge_page_flags(huge_shift) : 0;
  const int id = ::shmget(key, record.getSize(), IPC_CREAT | IPC_EXCL | 0600 | huge);
  if (id < 0 && errno == EEXIST) refuse_taken(record, "its key is taken");
  if (id < 0 && huge_shift != 0) {
    const int error = errno;
    refuse(record, fmt::format("{}: {}", huge_pages_name(huge_shift), std::strerror(error)));
  }
  if (id < 0) refuse(record, std::strerror(errno));
  made_.emplace(id, (record.getMode() & SHM_DEST) != 0);
  if (id != record.getId()) {
    ::shmctl(id, IPC_RMID, nullptr);
    made_.erase(id);
    refuse_taken(record, "its id is taken");
  }
  give_owner(record, id);
  return id;
}

void Segments::keep() {
  for (const auto& [id, marked] : made_) {
    if (marked && ::shmctl(id, IPC_RMID, nullptr) != 0) {
      throw_errno("marking System V memory for destruction");
    }
  }
  made_.clear();
}

}  // namespace telefork::restore
