// What a reader holds the image of a tree to.
#include <functional>
#include <vector>

#include <capnp/message.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/remote_ptr.h"
#include "image/image_samples.h"
#include "image/writer.h"

namespace telefork::image {
namespace {

using samples::error_of_reading;
using ::testing::HasSubstr;

struct TreeParts {
  std::function<void(schema::Tree::Builder)> tree = [](auto) {};
  std::function<void(unsigned, schema::Files::Builder)> files = [](unsigned, auto) {};
  std::vector<std::uint32_t> processes = {10, 11};
  bool signals = true;
  bool late_content = false;
};

template <class T>
void write(RecordSink& sink, RecordType type,
           const std::function<void(typename T::Builder)>& fill) {
  ::capnp::MallocMessageBuilder message;
  fill(message.initRoot<T>());
  sink.write(type, message);
}

// 10 has the child 11, and 12, which has ended.
void fill_tree(schema::Tree::Builder tree) {
  auto members = tree.initMembers(3);
  for (unsigned i = 0; i < 3; ++i) {
    members[i].setPid(10 + i);
    members[i].setPpid(i == 0 ? 1 : 10);
    members[i].setPgid(10);
    members[i].setSid(5);
  }
  members[2].setState(schema::Member::State::ENDED);
  tree.initShared(1)[0].setSize(kPageSize);
}

void write_process(RecordSink& sink, const TreeParts& parts, unsigned number) {
  write<schema::Process>(sink, RecordType::kProcess,
                         [&](auto process) { process.setPid(parts.processes[number]); });
  // At the same addresses as the one before.
  samples::write_vma(sink, 0x10000, 0x14000);
  if (parts.late_content && number == 1) {
    ::capnp::MallocMessageBuilder message;
    message.initRoot<schema::FileContent>().setId(1);
    sink.begin_payload_record(RecordType::kFileContent, message, 0);
  }
  write<schema::Files>(sink, RecordType::kFiles, [&](schema::Files::Builder files) {
    if (number == 0) files.initDescriptions(1);
    files.initDescriptors(1)[0].setFd(3);
    parts.files(number, files);
  });
  if (parts.signals) write<schema::Signals>(sink, RecordType::kSignals, [](auto) {});
  write<schema::Thread>(sink, RecordType::kThreads, [](auto) {});
  samples::write_pages(sink, {{0x10000, 1}}, kPageSize);
}

std::string error_of(const TreeParts& parts) {
  MemorySink file;
  Writer writer(file);
  samples::write_header(writer);
  write<schema::Tree>(writer, RecordType::kTree, [&](schema::Tree::Builder tree) {
    fill_tree(tree);
    parts.tree(tree);
  });
  for (unsigned i = 0; i < parts.processes.size(); ++i) write_process(writer, parts, i);
  writer.end();
  return error_of_reading(file.bytes());
}

TEST(TreeRules, TakeAWholeTree) { EXPECT_EQ(error_of({}), ""); }

TEST(TreeRules, RefuseProcessesThatAreNotTheNextOfTheirTree) {
  TreeParts parts;
  parts.processes = {11, 10};
  EXPECT_THAT(error_of(parts), HasSubstr("its process 11 is not the next one of its tree"));
  parts.processes = {10, 10};
  EXPECT_THAT(error_of(parts), HasSubstr("its process 10 is not the next"));
  parts.processes = {10, 11, 12};
  EXPECT_THAT(error_of(parts), HasSubstr("its process 12 is not the next"));
  parts.processes = {10};
  EXPECT_THAT(error_of(parts), HasSubstr("1 processes of its tree did not come"));
  parts.processes = {};
  EXPECT_THAT(error_of(parts), HasSubstr("2 processes of its tree did not come"));
}

TEST(TreeRules, RefuseAProcessThatLacksSomething) {
  TreeParts parts;
  parts.signals = false;
  EXPECT_THAT(error_of(parts), HasSubstr("process 10 before it lacks its files, its signals"));
}

TEST(TreeRules, RefuseATerminalThatIsNoSessions) {
  TreeParts parts;
  auto with_terminals = [&](std::uint32_t leader, std::vector<std::uint32_t> sessions) {
    parts.tree = [leader, sessions](schema::Tree::Builder tree) {
      if (leader != 0) {
        tree.getMembers()[1].setPgid(leader);
        tree.getMembers()[1].setSid(leader);
      }
      auto terminals = tree.initTerminals(static_cast<unsigned>(sessions.size()));
      for (unsigned i = 0; i < terminals.size(); ++i) {
        terminals[i].setNumber(7 + i);
        terminals[i].setSession(sessions[i]);
      }
    };
    return error_of(parts);
  };
  EXPECT_EQ(with_terminals(11, {11}), "");
  EXPECT_THAT(with_terminals(11, {10}), HasSubstr("its terminal 7 is that of no session"));
  EXPECT_THAT(with_terminals(11, {12}), HasSubstr("its terminal 7 is that of no session"));
  EXPECT_THAT(with_terminals(11, {11, 11}), HasSubstr("its terminal 8 is that of no session"));
  EXPECT_THAT(with_terminals(0, {11}), HasSubstr("its terminal 7 is that of no session"));
}

TEST(TreeRules, RefuseATreeThatCannotBeMade) {
  TreeParts parts;
  parts.tree = [](schema::Tree::Builder tree) { tree.getMembers()[1].setPpid(77); };
  EXPECT_THAT(error_of(parts), HasSubstr("11 cannot be made: its parent 77 is not among them"));
  parts.tree = [](schema::Tree::Builder tree) { tree.getMembers()[1].setPid(10); };
  EXPECT_THAT(error_of(parts), HasSubstr("there are two of it"));
  parts.tree = [](schema::Tree::Builder tree) { tree.initMembers(0); };
  EXPECT_THAT(error_of(parts), HasSubstr("there is no process"));
  parts.tree = [](schema::Tree::Builder tree) { tree.initMembers(5000); };
  EXPECT_THAT(error_of(parts), HasSubstr("at most 4096 can go together"));
}

TEST(TreeRules, RefuseAStatusThatNobodyEndsWith) {
  TreeParts parts;
  parts.tree = [](schema::Tree::Builder tree) {
    tree.getMembers()[0].setState(schema::Member::State::ENDED);
  };
  EXPECT_THAT(error_of(parts), HasSubstr("the first process of its tree has ended"));
  for (const std::uint32_t status : {0x10000u, 0x7fu, 65u}) {
    parts.tree = [status](schema::Tree::Builder tree) { tree.getMembers()[2].setStatus(status); };
    EXPECT_THAT(error_of(parts), HasSubstr("its process 12 has ended with no status")) << status;
  }
}

TEST(TreeRules, RefuseSharedMemoryOfNoSize) {
  TreeParts parts;
  for (const std::uint64_t size : {std::uint64_t{0}, kPageSize - 1, std::uint64_t{1} << 60}) {
    parts.tree = [size](schema::Tree::Builder tree) { tree.getShared()[0].setSize(size); };
    EXPECT_THAT(error_of(parts), HasSubstr("has no size")) << size;
  }
  parts.tree = [](schema::Tree::Builder tree) {
    for (auto memory : tree.initShared(2)) memory.setSize(kPageSize);
  };
  EXPECT_THAT(error_of(parts), HasSubstr("has no size"));
}

TEST(TreeRules, RefuseDescriptionsAndContentsOfALaterProcess) {
  TreeParts parts;
  parts.files = [](unsigned number, schema::Files::Builder files) {
    if (number == 1) files.initDescriptions(1);
  };
  EXPECT_THAT(error_of(parts), HasSubstr("the open files of a tree come with its first process"));
  parts.files = [](unsigned number, schema::Files::Builder files) {
    files.getDescriptors()[0].setDescription(number);
  };
  EXPECT_THAT(error_of(parts), HasSubstr("its descriptor 3 names what is not there"));
  parts.files = [](unsigned, auto) {};
  parts.late_content = true;
  EXPECT_THAT(error_of(parts), HasSubstr("such records of a tree come with its first process"));
}

TEST(TreeRules, RefuseACommandInATree) {
  MemorySink file;
  Writer writer(file);
  samples::write_header(writer);
  write<schema::Tree>(writer, RecordType::kTree, fill_tree);
  write<schema::Command>(writer, RecordType::kCommand, [](auto) {});
  writer.end();
  EXPECT_THAT(error_of_reading(file.bytes()), HasSubstr("a tree has no such record"));
}

}  // namespace
}  // namespace telefork::image
