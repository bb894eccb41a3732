// Images of each format version, kept in tests/golden, are read for ever.
//
// NAME.tfi is an image, NAME.txt what is in it, one field a line. What a line says must still be
// read from the image; fields that were added to the schema since are not asked for. To write new
// ones (for a new format version; the old ones stay as they are):
//
//     TELEFORK_WRITE_GOLDEN=1 image_test --gtest_filter='GoldenImages.*'
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include <capnp/dynamic.h>
#include <capnp/message.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/remote_ptr.h"
#include "image/memory_stream.h"
#include "image/reader.h"
#include "image/show.h"
#include "image/writer.h"

namespace telefork::image {
namespace {

namespace fs = std::filesystem;

using ::capnp::DynamicList;
using ::capnp::DynamicStruct;
namespace types = ::capnp::schema;

const fs::path kFolder = TELEFORK_GOLDEN;

// Every field of a record, each with a value of its own.
class Filler {
 public:
  void fill(DynamicStruct::Builder value) {
    for (::capnp::StructSchema::Field field : value.getSchema().getFields()) {
      if (field.getType().isList()) {
        fill(value.init(field, 2).as<DynamicList>());
      } else if (field.getType().isStruct()) {
        fill(value.init(field).as<DynamicStruct>());
      } else if (field.getType().isData()) {
        value.set(field, bytes());
      } else if (field.getType().isText()) {
        value.set(field, text().c_str());
      } else if (field.getType().isEnum()) {
        const auto enumerants = field.getType().asEnum().getEnumerants();
        value.set(field, ::capnp::DynamicEnum(enumerants[next_++ % enumerants.size()]));
      } else if (field.getType().isBool()) {
        value.set(field, true);
      } else {
        value.set(field, next_++ % 100);
      }
    }
  }

 private:
  void fill(DynamicList::Builder list) {
    for (unsigned i = 0; i < list.size(); ++i) {
      switch (list.getSchema().whichElementType()) {
        case types::Type::STRUCT:
          fill(list[i].as<DynamicStruct>());
          break;
        case types::Type::DATA:
          list.set(i, bytes());
          break;
        case types::Type::TEXT:
          list.set(i, text().c_str());
          break;
        default:
          list.set(i, next_++ % 100);
      }
    }
  }
  std::string text() { return fmt::format("text {}", next_++); }
  ::capnp::Data::Reader bytes() {
    for (unsigned char& byte : bytes_) byte = static_cast<unsigned char>(next_);
    ++next_;
    return {bytes_, sizeof bytes_};
  }

  unsigned next_ = 1;
  unsigned char bytes_[5] = {};
};

class GoldenWriter {
 public:
  explicit GoldenWriter(ByteSink& file) : writer_(file) {}

  template <class T, class F>
  void write(RecordType type, F&& adjust) {
    ::capnp::MallocMessageBuilder message;
    fill<T>(message, adjust);
    writer_.write(type, message);
  }
  template <class T>
  void write(RecordType type) {
    write<T>(type, [](auto&) {});
  }
  template <class T, class F>
  void write_with_payload(RecordType type, std::uint64_t bytes, F&& adjust) {
    ::capnp::MallocMessageBuilder message;
    fill<T>(message, adjust);
    writer_.begin_payload_record(type, message, bytes);
    writer_.payload(std::vector<std::byte>(bytes, std::byte{0x5a}));
  }
  void end() { writer_.end(); }

 private:
  template <class T, class F>
  void fill(::capnp::MessageBuilder& message, F& adjust) {
    typename T::Builder root = message.initRoot<T>();
    filler_.fill(::capnp::toDynamic(root));
    adjust(root);
  }

  Writer writer_;
  Filler filler_;
};

void set_version(schema::Header::Builder& header) {
  header.setVersion(kFormatVersion);
  header.setPurpose(schema::Header::Purpose::RETURN);  // which may drop pages
}

void set_range(schema::Vma::Builder& vma) {
  vma.setLazy(false);  // a file has no such memory
  vma.disownStaged();
  vma.setStart(0x10000);
  vma.setEnd(0x20000);
  vma.setHugeShift(21);
  for (unsigned i = 0; i < 2; ++i) {
    vma.getGuardRuns()[i].setStart(0x18000 + i * 2 * kPageSize);
    vma.getGuardRuns()[i].setPages(1);
  }
}

void set_runs(schema::Pages::Builder& pages) {
  pages.disownKept();  // likewise
  for (unsigned i = 0; i < 2; ++i) {
    pages.getRuns()[i].setStart(0x10000 + i * 2 * kPageSize);
    pages.getRuns()[i].setPages(1);
    pages.getDropped()[i].setStart(0x11000 + i * 2 * kPageSize);
    pages.getDropped()[i].setPages(1);
  }
}

constexpr std::uint32_t kContent = 4711;

void set_content(schema::FileContent::Builder& content) {
  content.setId(kContent);
  content.setSize(100);
  content.setKind(schema::FileContent::Kind::MEMORY_FILE);
  content.setFileSize(10'000);
  content.setHugeShift(0);
  for (unsigned i = 0; i < 2; ++i) {
    content.getExtents()[i].setOffset(4096 * i);
    content.getExtents()[i].setSize(50);
  }
}

void set_numbers(schema::Files::Builder& files) {
  for (auto pipe : files.getPipes()) {
    pipe.setCapacity(4096);
    pipe.setContentId(kContent);
    for (auto piece : pipe.getPieces()) piece.setSize(50);
  }
  for (unsigned i = 0; i < files.getPtys().size(); ++i) {
    auto pty = files.getPtys()[i];
    pty.setNumber(i);
    pty.setContentId(kContent);
    for (auto piece : pty.getInput()) piece.setSize(40);
  }
  for (auto description : files.getDescriptions()) {
    description.setPipe(1);
    description.setPty(1);
    for (auto item : description.getEpoll()) item.setDescription(1);
  }
}

void set_pair(schema::Sockets::Builder& sockets) {
  for (unsigned i = 0; i < 2; ++i) {
    auto socket = sockets.getSockets()[i];
    socket.setPeer(2 - i);
    socket.setPaired(true);
    socket.setShutdown(i + 1);
    socket.setContentId(kContent);
    for (unsigned k = 0; k < 2; ++k) socket.getMessages().set(k, 50);
    for (auto sent : socket.getSentAlong()) sent.setMessage(i);
    socket.initWaiting(0);  // nobody waits at one of a pair
  }
}

void write_process_image(ByteSink& file) {
  GoldenWriter image(file);
  image.write<schema::Header>(RecordType::kHeader, set_version);
  image.write<schema::Process>(RecordType::kProcess);
  image.write<schema::Vma>(RecordType::kVma, set_range);
  image.write<schema::FreezeMark>(RecordType::kFreezeMark);
  image.write_with_payload<schema::FileContent>(RecordType::kFileContent, 100, set_content);
  image.write<schema::Files>(RecordType::kFiles, set_numbers);
  image.write<schema::Sockets>(RecordType::kSockets, set_pair);
  image.write<schema::Timers>(RecordType::kTimers);
  image.write<schema::Signals>(RecordType::kSignals);
  image.write<schema::Thread>(RecordType::kThreads);
  image.write<schema::Thread>(RecordType::kThreads);
  image.write_with_payload<schema::Pages>(RecordType::kPages, 2 * kPageSize, set_runs);
  image.end();
}

void set_members(schema::Tree::Builder& tree) {
  for (unsigned i = 0; i < 2; ++i) {
    auto member = tree.getMembers()[i];
    member.setPid(10 + i);
    member.setPpid(9 + i);
    member.setPgid(10);
    member.setSid(10);
    member.setState(i == 0 ? schema::Member::State::STOPPED : schema::Member::State::LIVES);
    tree.getShared()[i].setId(i);
    tree.getShared()[i].setSize((i + 1) * kPageSize);
    tree.getShared()[i].setHugeShift(21);
  }
}

// Only the second leads a session that is made anew.
void set_terminal(schema::Tree::Builder& tree) {
  set_members(tree);
  tree.getMembers()[1].setPgid(11);
  tree.getMembers()[1].setSid(11);
  auto terminal = tree.initTerminals(1)[0];
  terminal.setNumber(7);
  terminal.setSession(11);
  terminal.setForeground(11);
  terminal.initWindow().setRows(24);
  terminal.getWindow().setColumns(80);
  terminal.getWindow().setXPixels(640);
  terminal.getWindow().setYPixels(480);
}

void write_tree_image(ByteSink& file) {
  GoldenWriter image(file);
  image.write<schema::Header>(RecordType::kHeader, set_version);
  image.write<schema::Tree>(RecordType::kTree, set_terminal);
  for (unsigned i = 0; i < 2; ++i) {
    image.write<schema::Process>(RecordType::kProcess,
                                 [&](schema::Process::Builder& one) { one.setPid(10 + i); });
    image.write<schema::Vma>(RecordType::kVma, set_range);
    if (i == 0) {
      image.write_with_payload<schema::FileContent>(RecordType::kFileContent, 100, set_content);
    }
    image.write<schema::Files>(RecordType::kFiles, [&](schema::Files::Builder& files) {
      if (i == 0) {
        set_numbers(files);
      } else {
        files.initDescriptions(0);
        files.initPipes(0);
        files.initPtys(0);
      }
      for (auto descriptor : files.getDescriptors()) descriptor.setDescription(1);
    });
    if (i == 0) image.write<schema::Sockets>(RecordType::kSockets, set_pair);
    image.write<schema::Timers>(RecordType::kTimers);
    image.write<schema::Signals>(RecordType::kSignals);
    image.write<schema::Thread>(RecordType::kThreads);
    image.write_with_payload<schema::Pages>(RecordType::kPages, 2 * kPageSize, set_runs);
  }
  image.end();
}

void write_command_image(ByteSink& file) {
  GoldenWriter image(file);
  image.write<schema::Header>(RecordType::kHeader, set_version);
  image.write<schema::Command>(RecordType::kCommand);
  image.end();
}

std::string text_of(const Tree::Value& value) {
  struct Texts {
    std::string operator()(Tree::Absent) const { return "absent"; }
    std::string operator()(Tree::Object) const { return "object"; }
    std::string operator()(Tree::List) const { return "list"; }
    std::string operator()(const std::string& text) const { return '"' + text + '"'; }
    std::string operator()(const Tree::Bytes& bytes) const { return hex(bytes); }
    std::string operator()(bool value) const { return fmt::format("{}", value); }
    std::string operator()(std::int64_t value) const { return fmt::format("{}", value); }
    std::string operator()(std::uint64_t value) const { return fmt::format("{}", value); }
  };
  return std::visit(Texts(), value);
}

// "/records/2/start" -> "65536"
void flatten(const Tree& tree, const std::string& path, std::vector<std::string>& lines) {
  lines.push_back(fmt::format("{} = {}", path, text_of(tree.value)));
  for (std::size_t i = 0; i < tree.children.size(); ++i) {
    const std::string& name = tree.children[i].name;
    flatten(tree.children[i], fmt::format("{}/{}", path, name.empty() ? fmt::to_string(i) : name),
            lines);
  }
}

std::vector<std::string> lines_of_image(std::span<const std::byte> image) {
  MemorySource file(image);
  Reader reader(file);
  std::vector<std::string> lines;
  flatten(tree_of_image(reader), "", lines);
  return lines;
}

std::vector<std::byte> read_file(const fs::path& path) {
  std::vector<std::byte> bytes(fs::file_size(path));
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  EXPECT_TRUE(file) << path;
  return bytes;
}

void write_golden(const std::string& name, const std::function<void(ByteSink&)>& write) {
  MemorySink image;
  write(image);
  std::ofstream(kFolder / (name + ".tfi"), std::ios::binary)
      .write(reinterpret_cast<const char*>(image.bytes().data()),
             static_cast<std::streamsize>(image.bytes().size()));
  std::ofstream text(kFolder / (name + ".txt"));
  for (const std::string& line : lines_of_image(image.bytes())) text << line << '\n';
}

void expect_still_read(const fs::path& image) {
  SCOPED_TRACE(image);
  const std::vector<std::string> lines = lines_of_image(read_file(image));
  const std::set<std::string> read(lines.begin(), lines.end());
  std::ifstream expected(fs::path(image).replace_extension(".txt"));
  ASSERT_TRUE(expected);
  for (std::string line; std::getline(expected, line);) {
    EXPECT_EQ(read.count(line), 1u) << "no longer read: " << line;
  }
}

TEST(GoldenImages, AreReadForEver) {
  if (std::getenv("TELEFORK_WRITE_GOLDEN") != nullptr) {
    write_golden(fmt::format("v{}-process", kFormatVersion), write_process_image);
    write_golden(fmt::format("v{}-command", kFormatVersion), write_command_image);
    write_golden(fmt::format("v{}-tree", kFormatVersion), write_tree_image);
  }
  int images = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(kFolder)) {
    if (entry.path().extension() != ".tfi") continue;
    expect_still_read(entry.path());
    ++images;
  }
  EXPECT_GE(images, 2);
}

}  // namespace
}  // namespace telefork::image
