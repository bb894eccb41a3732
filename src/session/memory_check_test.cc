#include "session/memory_check.h"

#include <capnp/message.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs_file.h"
#include "kernel/procfs_system.h"

namespace telefork::session {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// A fixture may not have a message in it, whose destructor may throw.
struct Question {
  void add_pages(unsigned shift, std::uint64_t count) {
    auto pages = root.initHugePages(1);
    pages[0].setShift(static_cast<std::uint8_t>(shift));
    pages[0].setCount(count);
  }
  void add_segment(int id, std::uint32_t key) {
    auto segments = root.initSegments(1);
    segments[0].setId(id);
    segments[0].setKey(key);
  }
  void say_that_it_is_here() {
    root.setBootId(kernel::read_boot_id());
    root.setIpcNamespace(kernel::read_ns_link(::getpid(), "ipc"));
  }
  std::vector<std::string> answer() {
    std::vector<std::string> texts;
    for (const auto& one : find_lacking_memory(root.asReader(), "there")) {
      texts.push_back(one.text());
    }
    return texts;
  }

  ::capnp::MallocMessageBuilder message;
  protocol::schema::WantedMemory::Builder root = message.initRoot<protocol::schema::WantedMemory>();
};

class OwnSegment {
 public:
  explicit OwnSegment(key_t key) : id_(::shmget(key, 5000, IPC_CREAT | IPC_EXCL | 0600)) {
    if (id_ < 0) throw_errno("making System V memory");
  }
  OwnSegment(const OwnSegment&) = delete;
  OwnSegment& operator=(const OwnSegment&) = delete;
  ~OwnSegment() { remove(); }
  void remove() const { ::shmctl(id_, IPC_RMID, nullptr); }
  int id() const { return id_; }
  std::string text() const {
    return fmt::format("by id {} (5000 bytes, made by process {}, of user {}, attached by 0)", id_,
                       ::getpid(), ::geteuid());
  }

 private:
  int id_;
};

TEST(MemoryCheck, OfAnOlderEndThatAsksNothingRefusesNothing) {
  EXPECT_THAT(Question().answer(), IsEmpty());
}

TEST(MemoryCheck, CountsHugePages) {
  Question none;
  none.add_pages(21, 0);
  EXPECT_THAT(none.answer(), IsEmpty());
  Question many;
  many.add_pages(21, std::uint64_t{1} << 40);
  EXPECT_THAT(many.answer(),
              ElementsAre(testing::MatchesRegex(
                  "hugetlb memory: it takes 1099511627776 pages of 2048 kB, and [0-9]+ are free "
                  "there; have root raise vm.nr_hugepages or vm.nr_overcommit_hugepages there")));
}

TEST(MemoryCheck, KnowsThatThereAreNoPagesOfASize) {
  Question question;
  question.add_pages(13, 1);
  EXPECT_THAT(question.answer(),
              ElementsAre("hugetlb memory: it takes 1 pages of 8 kB, and 0 are free there; have "
                          "root raise /sys/kernel/mm/hugepages/hugepages-8kB/nr_hugepages there"));
  for (unsigned shift : {0u, 255u}) {
    Question wild;
    wild.add_pages(shift, 1);
    EXPECT_THAT(wild.answer(), IsEmpty()) << shift;
  }
}

TEST(MemoryCheck, NamesWhoHasTheIdAndTheRemedy) {
  const OwnSegment segment(IPC_PRIVATE);
  Question question;
  question.add_segment(segment.id(), 0);
  const std::string expected = fmt::format(
      "System V memory (id {0}, key 0x0): its id is taken there, {1}; `ipcrm -m {0}` there, if "
      "nobody needs that",
      segment.id(), segment.text());
  EXPECT_THAT(question.answer(), ElementsAre(expected));
}

TEST(MemoryCheck, NamesWhoHasTheKey) {
  const key_t key = 0x7e1f0000 | (::getpid() & 0xffff);
  const OwnSegment segment(key);
  Question question;
  // Of which nobody has the place: it is the last of all.
  question.add_segment(0x7ffe, static_cast<std::uint32_t>(key));
  EXPECT_THAT(question.answer(),
              ElementsAre(HasSubstr("its key is taken there, " + segment.text())));
}

TEST(MemoryCheck, KnowsTheProcessItself) {
  const OwnSegment segment(IPC_PRIVATE);
  Question question;
  question.say_that_it_is_here();
  question.add_segment(segment.id(), 0);
  EXPECT_THAT(question.answer(), ElementsAre(HasSubstr("the process itself has it until")));
}

TEST(MemoryCheck, RefusesNoSegmentThatNobodyHas) {
  const OwnSegment segment(IPC_PRIVATE);
  segment.remove();
  Question question;
  question.add_segment(segment.id(), 0);
  if (::geteuid() == 0) {
    EXPECT_THAT(question.answer(), IsEmpty());
  } else {
    EXPECT_THAT(question.answer(), ElementsAre(HasSubstr("to choose an id takes root")));
  }
}

}  // namespace
}  // namespace telefork::session
