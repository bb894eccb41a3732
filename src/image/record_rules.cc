#include "image/record_rules.h"

#include <cstdint>
#include <iterator>

#include <fmt/format.h>

#include "base/error.h"
#include "base/remote_ptr.h"
#include "image/named_memory.h"
#include "image/tree_plan.h"

namespace telefork::image {
namespace {

constexpr std::uint32_t bit(RecordType type) { return 1u << static_cast<unsigned>(type); }

constexpr std::uint32_t kOnce = bit(RecordType::kHeader) | bit(RecordType::kProcess) |
                                bit(RecordType::kCommand) | bit(RecordType::kFreezeMark) |
                                bit(RecordType::kFiles) | bit(RecordType::kSockets) |
                                bit(RecordType::kTimers) | bit(RecordType::kSignals) |
                                bit(RecordType::kEnd) | bit(RecordType::kTree);

// What each process of a tree has.
constexpr std::uint32_t kOfMember = bit(RecordType::kProcess) | bit(RecordType::kFiles) |
                                    bit(RecordType::kTimers) | bit(RecordType::kSignals) |
                                    bit(RecordType::kThreads);

// More than any system lets a pipe have; Linux takes sizes up to 2 GiB (pipe(7)).
constexpr std::uint32_t kMostPipe = 1U << 31;
constexpr std::uint32_t kMostPtys = 1U << 20;  // NR_UNIX98_PTY_MAX (include/linux/tty.h)

constexpr std::uint32_t kInRounds =
    bit(RecordType::kRound) | bit(RecordType::kVma) | bit(RecordType::kPages);

constexpr std::uint32_t kWithCommand = bit(RecordType::kHeader) | bit(RecordType::kCommand) |
                                       bit(RecordType::kFileContent) | bit(RecordType::kFiles) |
                                       bit(RecordType::kEnd);

template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(Code::kCorrupt, fmt::format(format, std::forward<Args>(args)...));
}

void check_huge_shift(unsigned shift) {
  if (shift > kMostHugeShift) refuse("no huge page is of 2^{} bytes", shift);
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

void check_extents(schema::FileContent::Reader content) {
  std::uint64_t end = 0;
  std::uint64_t bytes = 0;
  if (content.getFileSize() > INT64_MAX) refuse("its file is too large");
  check_huge_shift(content.getHugeShift());
  const std::uint64_t page = std::uint64_t{1} << content.getHugeShift();
  if (content.getFileSize() % page != 0) {
    refuse("its file of {} bytes is no whole huge pages", content.getFileSize());
  }
  for (schema::Extent::Reader extent : content.getExtents()) {
    const std::uint64_t at = extent.getOffset();
    if (at < end || at > content.getFileSize() || extent.getSize() > content.getFileSize() - at) {
      refuse("its extent of {} bytes at {} overlaps or leaves the file of {} bytes",
             extent.getSize(), at, content.getFileSize());
    }
    if (at % page != 0 || extent.getSize() % page != 0) {
      refuse("its extent of {} bytes at {} is no whole huge pages", extent.getSize(), at);
    }
    end = at + extent.getSize();
    bytes += extent.getSize();
  }
  if (bytes != content.getSize()) {
    refuse("its extents are {} bytes, its payload {}", bytes, content.getSize());
  }
}

void check_lock(schema::FileLock::Reader lock) {
  constexpr std::uint64_t kMost = INT64_MAX;
  if (lock.getStart() > kMost || lock.getLength() > kMost - lock.getStart() + 1) {
    refuse("its lock of {} bytes at {} is of no file", lock.getLength(), lock.getStart());
  }
}

void check_timer(schema::TimerFile::Reader timer) {
  if (timer.getRemaining() < 0 || timer.getInterval() < 0 || timer.getDeadline() < 0) {
    refuse("its timer has a negative time");
  }
}

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
  if (record.type() == RecordType::kTree) check_tree(record.get<schema::Tree>());
  if (record.type() == RecordType::kVma) check_vma(record.get<schema::Vma>());
  if (record.type() == RecordType::kPages) check_pages(record);
  if (record.type() == RecordType::kRound) check_round(record.get<schema::Round>());
  if (record.type() == RecordType::kFileContent) check_file_content(record);
  if (record.type() == RecordType::kFiles) check_files(record.get<schema::Files>());
  if (record.type() == RecordType::kSockets) {
    check_sockets(record.get<schema::Sockets>().getSockets());
  }
}

void RecordRules::check_order(const Record& record) {
  const RecordType type = record.type();
  const std::uint32_t mine = bit(type);
  if (count_ == 0 && type != RecordType::kHeader) refuse("an image begins with its header");
  const bool subject =
      type == RecordType::kProcess || type == RecordType::kCommand || type == RecordType::kTree;
  if (count_ == 1 && type == RecordType::kRound) in_rounds_ = true;
  const bool begins = count_ == 1 || in_rounds_;
  if (!living_.empty()) {
    check_order_in_tree(record);
  } else if (in_rounds_ && (mine & kInRounds) != 0) {
    // Its subject comes later.
  } else if (count_ > 0 && begins != subject) {
    refuse("a process or a command is what comes after the header, and nowhere else");
  }
  if ((mine & kOnce & seen_) != 0) refuse("there was such a record before");
  if ((seen_ & bit(RecordType::kCommand)) != 0 && (mine & kWithCommand) == 0) {
    refuse("a command has no such record");
  }
  if (in_rounds_ && subject) end_rounds(type);
  if (type == RecordType::kHeader) {
    const auto purpose = record.get<schema::Header>().getPurpose();
    goes_home_ = purpose == schema::Header::Purpose::RETURN;
    runs_on_ = purpose == schema::Header::Purpose::RUN_ON;
  }
  seen_ |= mine;
  ++count_;
}

// From here on it is the process as it stands still.
void RecordRules::end_rounds(RecordType subject) {
  if (subject == RecordType::kCommand) refuse("a command has no rounds of pages");
  in_rounds_ = false;
  came_in_rounds_ = true;
  vmas_.clear();
}

void RecordRules::check_round(schema::Round::Reader round) {
  if (!in_rounds_) refuse("its rounds came before it");
  if (round.getNumber() != rounds_++) refuse("its round {} is not the next one", round.getNumber());
  RunCheck check;
  constexpr std::uint64_t kEnd = UINT64_MAX / kPageSize * kPageSize;
  for (schema::PageRun::Reader run : round.getTaken()) check.add(run, 0, kEnd);
}

// The next process begins where the one before has all that it is made of.
void RecordRules::check_order_in_tree(const Record& record) {
  const RecordType type = record.type();
  if (type == RecordType::kCommand) refuse("a tree has no such record");
  if (type != RecordType::kProcess && type != RecordType::kEnd) {
    if (came_ == 0) refuse("a process is what comes after the tree");
    if (came_ > 1 && (type == RecordType::kFileContent || type == RecordType::kSockets)) {
      refuse("such records of a tree come with its first process");
    }
    return;
  }
  if (came_ > 0) check_end_of_member();
  if (type == RecordType::kEnd) {
    if (came_ != living_.size())
      refuse("{} processes of its tree did not come", living_.size() - came_);
    return;
  }
  const std::uint32_t pid = record.get<schema::Process>().getPid();
  if (came_ == living_.size() || living_[came_] != pid) {
    refuse("its process {} is not the next one of its tree", pid);
  }
  ++came_;
  seen_ &= ~kOfMember;
  vmas_.clear();
}

void RecordRules::check_end_of_member() const {
  constexpr std::uint32_t kNeeded =
      bit(RecordType::kFiles) | bit(RecordType::kSignals) | bit(RecordType::kThreads);
  if ((seen_ & kNeeded) != kNeeded) {
    refuse("process {} before it lacks its files, its signals or its threads", living_[came_ - 1]);
  }
}

void RecordRules::check_tree(schema::Tree::Reader tree) {
  for (const TreeTrouble& trouble : plan_tree(members_of(tree)).troubles) {
    refuse("its process {} cannot be made: {}", trouble.id, trouble.why);
  }
  for (schema::Member::Reader member : tree.getMembers()) {
    const bool ended = member.getState() == schema::Member::State::ENDED;
    if (!ended) living_.push_back(member.getPid());
    const std::uint32_t signal = member.getStatus() & 0x7f;
    if (ended && (member.getStatus() > 0xffff || signal > 64)) {
      refuse("its process {} has ended with no status", member.getPid());
    }
  }
  if (living_.empty() || tree.getMembers()[0].getState() == schema::Member::State::ENDED) {
    refuse("the first process of its tree has ended");
  }
  check_terminals(tree);
  std::set<std::uint64_t> shared;
  for (schema::SharedMemory::Reader memory : tree.getShared()) {
    constexpr std::uint64_t kMost = std::uint64_t{1} << 47;
    if (memory.getSize() == 0 || memory.getSize() % kPageSize != 0 || memory.getSize() > kMost ||
        !shared.insert(memory.getId()).second) {
      refuse("its shared memory {} has no size", memory.getId());
    }
    check_huge_shift(memory.getHugeShift());
  }
}

// Each is another session's.
void RecordRules::check_terminals(schema::Tree::Reader tree) const {
  std::set<std::uint32_t> numbers;
  std::set<std::uint32_t> sessions;
  for (schema::SessionTerminal::Reader terminal : tree.getTerminals()) {
    bool is_leader = false;
    for (schema::Member::Reader member : tree.getMembers()) {
      is_leader =
          is_leader ||
          (member.getPid() == terminal.getSession() && member.getPid() == member.getSid() &&
           member.getPid() != living_.front() && member.getState() != schema::Member::State::ENDED);
    }
    if (terminal.getNumber() >= kMostPtys || !is_leader ||
        !numbers.insert(terminal.getNumber()).second ||
        !sessions.insert(terminal.getSession()).second) {
      refuse("its terminal {} is that of no session", terminal.getNumber());
    }
  }
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
  check_huge_shift(vma.getHugeShift());
  RunCheck check;
  for (schema::PageRun::Reader run : vma.getGuardRuns()) check.add(run, start, end);
  RunCheck staged;
  for (schema::PageRun::Reader run : vma.getStaged()) staged.add(run, start, end);
  if (vma.hasStaged() && (!came_in_rounds_ || !living_.empty())) {
    refuse("the VMA {:#x}-{:#x} has pages of rounds, and there were none", start, end);
  }
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
  if (pages.getDropped().size() > 0 && !goes_home_ && !came_in_rounds_) {
    refuse("it drops pages, which only an image of the way home does, or one that came in rounds");
  }
  if (pages.getKept().size() > 0 && !runs_on_) {
    refuse("it has pages that are kept elsewhere, which only one of a run_on has");
  }
  check_runs(pages.getDropped());
  check_runs(pages.getKept());
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
  if (content.getId() == 0 || !contents_.emplace(content.getId(), content.getSize()).second) {
    refuse("its id {} is 0 or was there before", content.getId());
  }
  const bool named = content.getKind() == schema::FileContent::Kind::NAMED_MEMORY;
  const bool itself = named || content.getKind() == schema::FileContent::Kind::MEMORY_FILE ||
                      content.getKind() == schema::FileContent::Kind::UNLINKED_FILE;
  if (itself) check_extents(content);
  if (content.getHugeShift() != 0 && content.getKind() != schema::FileContent::Kind::MEMORY_FILE) {
    refuse("only a memory file has huge pages of its own");
  }
  if (named && !is_named_memory(content.getName().cStr())) {
    refuse("{} is no name of memory", content.getName().cStr());
  }
}

// Each has to have come: contents are written before what names them.
void RecordRules::check_pipe(schema::Pipe::Reader pipe) const {
  if (pipe.getCapacity() == 0 || pipe.getCapacity() > kMostPipe) {
    refuse("its pipe has a size of {} bytes", pipe.getCapacity());
  }
  std::uint64_t size = 0;
  for (schema::PipePiece::Reader piece : pipe.getPieces()) size += piece.getSize();
  const auto content = contents_.find(pipe.getContentId());
  const std::uint64_t bytes = content == contents_.end() ? 0 : content->second;
  if (pipe.getContentId() != 0 && content == contents_.end()) {
    refuse("the content {} of its pipe did not come before it", pipe.getContentId());
  }
  if (size != bytes || bytes > pipe.getCapacity()) {
    refuse("its pipe of {} bytes holds {}, in pieces of {}", pipe.getCapacity(), bytes, size);
  }
}

void RecordRules::check_pty(schema::Pty::Reader pty) const {
  if (pty.getNumber() >= kMostPtys) refuse("its terminal {} has no number", pty.getNumber());
  std::uint64_t size = 0;
  for (schema::PtyPiece::Reader piece : pty.getInput()) {
    size += piece.getSize();
    if (piece.getSize() == 0 && piece.getEnd() == schema::PtyPiece::End::DELIMITER) {
      refuse("its terminal {} has a line without its end", pty.getNumber());
    }
  }
  const auto content = contents_.find(pty.getContentId());
  if (pty.getContentId() != 0 && content == contents_.end()) {
    refuse("the content {} of its terminal did not come before it", pty.getContentId());
  }
  if (size > (content == contents_.end() ? 0 : content->second)) {
    refuse("its terminal {} has {} bytes to read, which did not come", pty.getNumber(), size);
  }
}

void RecordRules::check_sockets(::capnp::List<schema::Socket>::Reader sockets) const {
  for (unsigned i = 0; i < sockets.size(); ++i) {
    const std::uint32_t peer = sockets[i].getPeer();
    const bool mutual =
        peer == 0 || (peer <= sockets.size() && peer != i + 1 && sockets[i].getPaired() &&
                      sockets[peer - 1].getPaired() && sockets[peer - 1].getPeer() == i + 1);
    if (!mutual) refuse("its socket {} is of no pair with {}", i + 1, peer);
    if (sockets[i].getShutdown() > 3) refuse("its socket {} is shut down in no direction", i + 1);
    std::uint64_t size = 0;
    for (std::uint32_t message : sockets[i].getMessages()) size += message;
    const auto content = contents_.find(sockets[i].getContentId());
    if (sockets[i].getContentId() != 0 && content == contents_.end()) {
      refuse("the content {} of its socket did not come before it", sockets[i].getContentId());
    }
    if (size != (content == contents_.end() ? 0 : content->second)) {
      refuse("the messages of its socket {} are {} bytes", i + 1, size);
    }
    for (schema::SentAlong::Reader sent : sockets[i].getSentAlong()) {
      if (sent.getMessage() < sockets[i].getMessages().size()) continue;
      refuse("its socket {} has no message {}", i + 1, sent.getMessage());
    }
    for (std::uint32_t waiting : sockets[i].getWaiting()) {
      const bool possible = waiting < sockets.size() && waiting != i &&
                            sockets[waiting].getWaiting().size() == 0 &&
                            sockets[waiting].getPeer() == 0 && sockets[i].getListening();
      if (!possible) refuse("its socket {} cannot wait at its socket {}", waiting + 1, i + 1);
    }
  }
}

void RecordRules::check_descriptors(schema::Files::Reader files) const {
  for (schema::Descriptor::Reader descriptor : files.getDescriptors()) {
    if (descriptor.getDescription() >= descriptions_) {
      refuse("its descriptor {} names what is not there", descriptor.getFd());
    }
  }
}

void RecordRules::check_files(schema::Files::Reader files) {
  if (came_ > 1 && (files.getDescriptions().size() > 0 || files.getPipes().size() > 0 ||
                    files.getPtys().size() > 0)) {
    refuse("the open files of a tree come with its first process");
  }
  if (came_ == 1) descriptions_ = files.getDescriptions().size();
  if (came_ > 0) check_descriptors(files);
  for (schema::Descriptor::Reader descriptor : files.getDescriptors()) {
    for (schema::FileLock::Reader lock : descriptor.getLocks()) check_lock(lock);
  }
  for (schema::Pipe::Reader pipe : files.getPipes()) check_pipe(pipe);
  for (schema::Pty::Reader pty : files.getPtys()) check_pty(pty);
  for (schema::FileDescription::Reader description : files.getDescriptions()) {
    const bool is_pipe = description.getKind() == schema::FileDescription::Kind::PIPE;
    if (is_pipe && description.getPipe() >= files.getPipes().size()) {
      refuse("its description {} is an end of no pipe", description.getId());
    }
    const bool is_pty = description.getKind() == schema::FileDescription::Kind::PTY_MASTER ||
                        description.getKind() == schema::FileDescription::Kind::PTY_SLAVE;
    if (is_pty && description.getPty() >= files.getPtys().size()) {
      refuse("its description {} is an end of no terminal", description.getId());
    }
    for (schema::EpollItem::Reader item : description.getEpoll()) {
      if (item.getFd() > INT32_MAX || item.getDescription() >= files.getDescriptions().size()) {
        refuse("its epoll {} watches what is not there", description.getId());
      }
    }
    for (schema::FileLock::Reader lock : description.getLocks()) check_lock(lock);
    if (description.hasTimer()) check_timer(description.getTimer());
  }
}

}  // namespace telefork::image
