#include "image/reader.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include <capnp/message.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/remote_ptr.h"
#include "image/frame.h"
#include "image/image_samples.h"
#include "image/writer.h"

namespace telefork::image {
namespace {

using samples::error_of_reading;
using samples::sample_image;
using samples::write_header;
using samples::write_pages;
using samples::write_process;
using samples::write_vma;
using ::testing::HasSubstr;

std::vector<std::byte> image_of(const std::function<void(Writer&)>& write) {
  MemorySink file;
  Writer writer(file);
  write(writer);
  writer.end();
  return file.take();
}

// An image with two VMAs, 0x10000-0x14000 and 0x20000-0x24000, and what `write` adds.
std::string error_of_image_with(const std::function<void(Writer&)>& write) {
  return error_of_reading(image_of([&](Writer& writer) {
    write_header(writer);
    write_process(writer);
    write_vma(writer, 0x10000, 0x14000);
    write_vma(writer, 0x20000, 0x24000);
    write(writer);
  }));
}

template <class T>
void write_empty(RecordSink& sink, RecordType type) {
  ::capnp::MallocMessageBuilder message;
  message.initRoot<T>();
  sink.write(type, message);
}

// Changes the frame that begins at `at`, and makes its checksum right again.
void change_frame(std::vector<std::byte>& image, std::size_t at,
                  const std::function<void(FrameHeader&)>& change) {
  FrameHeader frame;
  std::memcpy(&frame, image.data() + at, sizeof frame);
  const std::size_t metadata = frame.metadata_bytes;
  change(frame);
  frame.checksum =
      frame_checksum(frame, std::span<const std::byte>(image).subspan(at + sizeof frame, metadata));
  std::memcpy(image.data() + at, &frame, sizeof frame);
}

std::size_t second_frame(const std::vector<std::byte>& image) {
  FrameHeader frame;
  std::memcpy(&frame, image.data(), sizeof frame);
  return sizeof frame + frame.metadata_bytes;
}

TEST(ImageReader, GivesBackWhatTheWriterWrote) {
  const std::vector<std::byte> image = sample_image();
  MemorySource file(image);
  Reader reader(file);
  const Record header = reader.next();
  EXPECT_EQ(header.get<schema::Header>().getVersion(), kFormatVersion);
  EXPECT_EQ(header.get<schema::Header>().getMachine().getCpuLeaves()[1].getEax(), 0x1234u);
  const Record process = reader.next();
  EXPECT_EQ(process.get<schema::Process>().getComm(), "victim");
  EXPECT_EQ(process.get<schema::Process>().getArguments()[1].size(), 3u);
  EXPECT_EQ(reader.next().get<schema::Vma>().getEnd(), 0x14000u);
  EXPECT_EQ(reader.next().get<schema::Vma>().getEnd(), 0x24000u);
  EXPECT_EQ(reader.next().payload_bytes(), kPageSize);
}

TEST(ImageReader, GivesThePayloadInPiecesOfAnySize) {
  const std::vector<std::byte> image = sample_image();
  MemorySource file(image);
  Reader reader(file);
  while (reader.next().type() != RecordType::kPages) reader.skip_payload();
  std::vector<std::byte> payload(kPageSize);
  for (std::size_t done = 0; done < kPageSize;) {
    const std::size_t piece = std::min<std::size_t>(1000, kPageSize - done);
    reader.read_payload(std::span(payload).subspan(done, piece));
    done += piece;
  }
  EXPECT_EQ(payload[1], std::byte{7});
  EXPECT_EQ(payload[kPageSize - 1], std::byte((kPageSize - 1) * 7 + (kPageSize - 1) / 256));
  EXPECT_EQ(reader.next().type(), RecordType::kFreezeMark);
}

TEST(ImageReader, CountsLikeTheWriter) {
  MemorySink sink;
  Writer writer(sink);
  samples::write_sample_records(writer);
  writer.end();
  MemorySource file(sink.bytes());
  Reader reader(file);
  while (reader.next().type() != RecordType::kEnd) reader.skip_payload();
  EXPECT_TRUE(reader.ended());
  EXPECT_EQ(reader.totals().records, writer.totals().records);
  EXPECT_EQ(reader.totals().pages, writer.totals().pages);
  EXPECT_EQ(reader.totals().payload_bytes, writer.totals().payload_bytes);
  EXPECT_EQ(reader.totals().bytes, writer.totals().bytes);
}

TEST(ImageReader, TakesThePayloadsOfALinkFromTheirOwnStream) {
  MemorySink record_sink;
  MemorySink payload_sink;
  Writer writer(record_sink, payload_sink);
  samples::write_sample_records(writer);
  writer.end();
  MemorySource records(record_sink.bytes());
  MemorySource payloads(payload_sink.bytes());
  Reader reader(records, &payloads);
  while (reader.next().type() != RecordType::kEnd) reader.skip_payload();
  EXPECT_EQ(payloads.left(), 0u);
}

TEST(ImageReader, CountsPayloadsThatAnotherProcessReceives) {
  MemorySink record_sink;
  MemorySink payload_sink;
  Writer writer(record_sink, payload_sink);
  samples::write_sample_records(writer);
  writer.end();
  MemorySource records(record_sink.bytes());
  Reader reader(records, nullptr);
  while (reader.next().type() != RecordType::kEnd)
    reader.payload_taken_elsewhere(reader.payload_left());
  EXPECT_EQ(reader.totals().pages, 3u);
  EXPECT_EQ(reader.totals().bytes, writer.totals().bytes);
}

TEST(ImageReader, RefusesTheRecordsOfALinkAsAFile) {
  MemorySink records;
  MemorySink payloads;
  Writer writer(records, payloads);
  samples::write_sample_records(writer);
  writer.end();
  EXPECT_THAT(error_of_reading(records.bytes()), HasSubstr("flags"));
}

TEST(ImageReader, RefusesToGiveARecordAsAnotherType) {
  const std::vector<std::byte> image = sample_image();
  MemorySource file(image);
  Reader reader(file);
  const Record header = reader.next();
  try {
    header.get<schema::Process>();
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kCorrupt);
  }
}

TEST(ImageReader, SaysThatOtherFilesAreNoImages) {
  const std::vector<std::byte> text(4096, std::byte{'x'});
  EXPECT_THAT(error_of_reading(text), HasSubstr("this is not a telefork image"));
  EXPECT_THAT(error_of_reading({}), HasSubstr("truncated"));
}

TEST(ImageReader, NamesBothVersionsOfAnImageThatIsTooNew) {
  const std::vector<std::byte> image = image_of([](Writer& writer) {
    ::capnp::MallocMessageBuilder message;
    auto header = message.initRoot<schema::Header>();
    header.setVersion(kFormatVersion + 6);
    // A newer format may well have another purpose; the version is what matters.
    header.setPurpose(static_cast<schema::Header::Purpose>(99));
    writer.write(RecordType::kHeader, message);
  });
  EXPECT_THAT(error_of_reading(image),
              HasSubstr("it has image format 11, this telefork reads formats up to 5"));
}

TEST(ImageReader, RefusesVersionZero) {
  const std::vector<std::byte> image =
      image_of([](Writer& writer) { write_empty<schema::Header>(writer, RecordType::kHeader); });
  EXPECT_THAT(error_of_reading(image), HasSubstr("it has image format 0"));
}

TEST(ImageReader, RefusesAnUnknownRecordType) {
  std::vector<std::byte> image = sample_image();
  change_frame(image, second_frame(image), [](FrameHeader& frame) { frame.type = 77; });
  EXPECT_EQ(error_of_reading(image), "image record 1: its type 77 is unknown");
}

TEST(ImageReader, RefusesUnknownFlags) {
  std::vector<std::byte> image = sample_image();
  change_frame(image, second_frame(image), [](FrameHeader& frame) { frame.flags = 0x100; });
  EXPECT_THAT(error_of_reading(image), HasSubstr("flags"));
}

TEST(ImageReader, RefusesARecordThatIsMissing) {
  std::vector<std::byte> image = sample_image();
  change_frame(image, second_frame(image), [](FrameHeader& frame) { frame.number = 2; });
  EXPECT_THAT(error_of_reading(image), HasSubstr("it says that it is record 2"));
}

TEST(ImageReader, RefusesAPayloadWhereNoneBelongs) {
  std::vector<std::byte> image = sample_image();
  change_frame(image, second_frame(image), [](FrameHeader& frame) { frame.payload_bytes = 8; });
  EXPECT_THAT(error_of_reading(image), HasSubstr("payload"));
}

TEST(ImageReader, RefusesMoreMetadataThanIsAllowed) {
  std::vector<std::byte> image = sample_image();
  change_frame(image, second_frame(image),
               [](FrameHeader& frame) { frame.metadata_bytes = kMaxMetadata + 8; });
  EXPECT_THAT(error_of_reading(image), HasSubstr("more than the 67108864 allowed"));
}

TEST(ImageReader, TakesNoMemoryForBytesThatNeverCome) {
  // Ends after the frame that announces 64 MiB; and counts how much room was made for them.
  class Counting : public MemorySource {
   public:
    using MemorySource::MemorySource;
    void read(std::span<std::byte> bytes) override {
      largest = std::max(largest, bytes.size());
      MemorySource::read(bytes);
    }
    std::size_t largest = 0;
  };
  std::vector<std::byte> image = sample_image();
  change_frame(image, second_frame(image),
               [](FrameHeader& frame) { frame.metadata_bytes = kMaxMetadata; });
  Counting file(image);
  Reader reader(file);
  reader.next();
  EXPECT_THROW(reader.next(), Error);
  EXPECT_LE(file.largest, kReadStep);
}

TEST(ImageReader, RefusesAHugePayloadThatItsRunsDoNotExplain) {
  EXPECT_THAT(error_of_image_with([](Writer& writer) {
                write_pages(writer, {{0x10000, 1}}, 2 * kPageSize);
              }),
              HasSubstr("its runs are 4096 bytes of pages, its payload 8192"));
}

TEST(ImageReader, RefusesPagesOfAVmaThatDidNotComeBefore) {
  EXPECT_THAT(error_of_image_with([](Writer& writer) {
                write_pages(writer, {{0x30000, 1}}, kPageSize);
              }),
              HasSubstr("its page run at 0x30000 is in no VMA that came before it"));
}

struct BadRuns {
  const char* name;
  std::vector<samples::Run> runs;
};

class ImageReaderRefuses : public ::testing::TestWithParam<BadRuns> {};

TEST_P(ImageReaderRefuses, PageRuns) {
  std::uint64_t pages = 0;
  for (const samples::Run& run : GetParam().runs) pages += run.pages;
  const std::uint64_t bytes = pages > 100 ? 0 : pages * kPageSize;
  EXPECT_THAT(
      error_of_image_with([&](Writer& writer) { write_pages(writer, GetParam().runs, bytes); }),
      HasSubstr("page run"));
}

INSTANTIATE_TEST_SUITE_P(
    , ImageReaderRefuses,
    ::testing::Values(
        BadRuns{"ThatOverlap", {{0x20000, 2}, {0x21000, 1}}},
        BadRuns{"ThatComeTwice", {{0x20000, 1}, {0x20000, 1}}},
        BadRuns{"ThatFall", {{0x21000, 1}, {0x20000, 1}}}, BadRuns{"OffThePage", {{0x20800, 1}}},
        BadRuns{"ThatAreEmpty", {{0x20000, 0}}}, BadRuns{"LongerThanTheVma", {{0x20000, 5}}},
        BadRuns{"BeforeTheVma", {{0x1f000, 1}}}, BadRuns{"BehindTheVma", {{0x24000, 1}}},
        BadRuns{"InTwoVmas", {{0x13000, 2}}}, BadRuns{"ThatWrapRound", {{0x20000, ~0ull}}},
        BadRuns{"ThatWrapRoundInBytes", {{0x21000, 1ull << 52}}},
        BadRuns{"AtTheEndOfAllAddresses", {{0xfffffffffffff000, 1}}}),
    [](const auto& test) { return test.param.name; });

TEST(ImageReader, RefusesDroppedPagesOfAProcessThatDoesNotGoHome) {
  EXPECT_THAT(error_of_image_with([](Writer& writer) {
                ::capnp::MallocMessageBuilder message;
                auto run = message.initRoot<schema::Pages>().initDropped(1)[0];
                run.setStart(0x10000);
                run.setPages(1);
                writer.begin_payload_record(RecordType::kPages, message, 0);
              }),
              HasSubstr("it drops pages, which only an image of the way home does"));
}

TEST(ImageReader, RefusesKeptPagesOfAProcessThatDoesNotComeForACall) {
  EXPECT_THAT(error_of_image_with([](Writer& writer) {
                ::capnp::MallocMessageBuilder message;
                auto run = message.initRoot<schema::Pages>().initKept(1)[0];
                run.setStart(0x10000);
                run.setPages(1);
                writer.begin_payload_record(RecordType::kPages, message, 0);
              }),
              HasSubstr("it has pages that are kept elsewhere"));
}

TEST(ImageReader, RefusesVmasThatAreNoPagesOrOverlap) {
  const auto error_with_vma = [](std::uint64_t start, std::uint64_t end) {
    return error_of_image_with([&](Writer& writer) { write_vma(writer, start, end); });
  };
  EXPECT_THAT(error_with_vma(0x30000, 0x30000), HasSubstr("no range of pages"));
  EXPECT_THAT(error_with_vma(0x31000, 0x30000), HasSubstr("no range of pages"));
  EXPECT_THAT(error_with_vma(0x30001, 0x31000), HasSubstr("no range of pages"));
  EXPECT_THAT(error_with_vma(0x30000, 0x30fff), HasSubstr("no range of pages"));
  EXPECT_THAT(error_with_vma(0x10000, 0x14000), HasSubstr("overlaps"));
  EXPECT_THAT(error_with_vma(0x13000, 0x15000), HasSubstr("overlaps"));
  EXPECT_THAT(error_with_vma(0xf000, 0x11000), HasSubstr("overlaps"));
  EXPECT_THAT(error_with_vma(0x0, 0x100000), HasSubstr("overlaps"));
  EXPECT_EQ(error_with_vma(0x14000, 0x20000), "");
  EXPECT_EQ(error_with_vma(0xffffffffff600000, 0xffffffffff601000), "");
}

TEST(ImageReader, RefusesAnImageThatDoesNotBeginWithItsHeader) {
  std::vector<std::byte> image = sample_image();
  const std::size_t second = second_frame(image);
  image.erase(image.begin(), image.begin() + static_cast<std::ptrdiff_t>(second));
  change_frame(image, 0, [](FrameHeader& frame) { frame.number = 0; });
  EXPECT_EQ(error_of_reading(image), "image record 0 (process): an image begins with its header");
}

TEST(ImageReader, RefusesASecondHeader) {
  const std::vector<std::byte> image = sample_image();
  std::vector<std::byte> twice(image.begin(),
                               image.begin() + static_cast<std::ptrdiff_t>(second_frame(image)));
  twice.insert(twice.end(), image.begin(), image.end());
  change_frame(twice, second_frame(image), [](FrameHeader& frame) { frame.number = 1; });
  EXPECT_THAT(error_of_reading(twice), HasSubstr("image record 1 (header)"));
}

TEST(ImageReader, RefusesAnythingBeforeTheProcess) {
  EXPECT_THAT(error_of_reading(image_of([](Writer& writer) {
                write_header(writer);
                write_vma(writer, 0x10000, 0x14000);
              })),
              HasSubstr("a process or a command is what comes after the header"));
}

TEST(ImageReader, RefusesToMeetTwiceWhatThereIsOnce) {
  EXPECT_THAT(error_of_image_with([](Writer& writer) {
                write_empty<schema::Timers>(writer, RecordType::kTimers);
                write_empty<schema::Timers>(writer, RecordType::kTimers);
              }),
              HasSubstr("there was such a record before"));
}

TEST(ImageReader, RefusesMemoryOfACommand) {
  EXPECT_THAT(error_of_reading(image_of([](Writer& writer) {
                write_header(writer);
                write_empty<schema::Command>(writer, RecordType::kCommand);
                write_vma(writer, 0x10000, 0x14000);
              })),
              HasSubstr("a command has no such record"));
}

TEST(ImageReader, RefusesAFileContentThatComesTwice) {
  const auto write_content = [](Writer& writer, std::uint32_t id) {
    ::capnp::MallocMessageBuilder message;
    message.initRoot<schema::FileContent>().setId(id);
    writer.begin_payload_record(RecordType::kFileContent, message, 0);
  };
  EXPECT_EQ(error_of_image_with([&](Writer& writer) { write_content(writer, 1); }), "");
  EXPECT_THAT(error_of_image_with([&](Writer& writer) { write_content(writer, 0); }),
              HasSubstr("its id 0"));
  EXPECT_THAT(error_of_image_with([&](Writer& writer) {
                write_content(writer, 1);
                write_content(writer, 1);
              }),
              HasSubstr("its id 1"));
}

// The content 1 of 8 bytes, in these extents of a file of 100.
void write_moving_file(Writer& writer, const std::vector<std::pair<int, int>>& extents) {
  ::capnp::MallocMessageBuilder message;
  auto content = message.initRoot<schema::FileContent>();
  content.setId(1);
  content.setSize(8);
  content.setKind(schema::FileContent::Kind::MEMORY_FILE);
  content.setFileSize(100);
  auto list = content.initExtents(static_cast<unsigned>(extents.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    list[i].setOffset(static_cast<std::uint64_t>(extents[i].first));
    list[i].setSize(static_cast<std::uint64_t>(extents[i].second));
  }
  writer.begin_payload_record(RecordType::kFileContent, message, 8);
  writer.payload(std::vector<std::byte>(8));
}

TEST(ImageReader, RefusesExtentsThatAreNotTheFiles) {
  using Extents = std::vector<std::pair<int, int>>;
  auto error_of = [](const Extents& extents) {
    return error_of_image_with([&](Writer& writer) { write_moving_file(writer, extents); });
  };
  EXPECT_EQ(error_of({{0, 3}, {95, 5}}), "");
  EXPECT_THAT(error_of({{0, 3}, {2, 5}}), HasSubstr("its extent of 5 bytes at 2 overlaps"));
  EXPECT_THAT(error_of({{50, 3}, {2, 5}}), HasSubstr("its extent of 5 bytes at 2 overlaps"));
  EXPECT_THAT(error_of({{96, 5}}), HasSubstr("its extent of 5 bytes at 96 overlaps or leaves"));
  EXPECT_THAT(error_of({{96, -1}}), HasSubstr("overlaps or leaves"));
  EXPECT_THAT(error_of({{0, 7}}), HasSubstr("its extents are 7 bytes, its payload 8"));
  EXPECT_THAT(error_of({}), HasSubstr("its extents are 0 bytes, its payload 8"));
}

TEST(ImageReader, RefusesHugePagesThatCannotBe) {
  constexpr std::uint64_t kHuge = std::uint64_t{2} << 20;
  struct File {
    std::uint8_t shift;
    std::uint64_t offset;
    std::uint64_t size;
    schema::FileContent::Kind kind = schema::FileContent::Kind::MEMORY_FILE;
  };
  auto error_of = [](const File& file) {
    return error_of_image_with([&](Writer& writer) {
      ::capnp::MallocMessageBuilder message;
      auto content = message.initRoot<schema::FileContent>();
      content.setId(1);
      content.setSize(kHuge);
      content.setKind(file.kind);
      content.setFileSize(file.size);
      content.setHugeShift(file.shift);
      content.initExtents(1)[0].setOffset(file.offset);
      content.getExtents()[0].setSize(kHuge);
      writer.begin_payload_record(RecordType::kFileContent, message, kHuge);
      writer.payload(std::vector<std::byte>(kHuge));
    });
  };
  EXPECT_EQ(error_of({21, kHuge, 2 * kHuge}), "");
  EXPECT_THAT(error_of({31, kHuge, 2 * kHuge}), HasSubstr("no huge page is of 2^31 bytes"));
  EXPECT_THAT(error_of({21, kHuge, 2 * kHuge + 1}), HasSubstr("is no whole huge pages"));
  EXPECT_THAT(error_of({21, kPageSize, 2 * kHuge}), HasSubstr("is no whole huge pages"));
  EXPECT_THAT(error_of({21, 0, kHuge, schema::FileContent::Kind::UNLINKED_FILE}),
              HasSubstr("only a memory file"));
}

std::string error_of_files_with(const std::function<void(schema::Files::Builder)>& change) {
  return error_of_image_with([&](Writer& writer) {
    write_moving_file(writer, {{0, 8}});
    ::capnp::MallocMessageBuilder message;
    auto files = message.initRoot<schema::Files>();
    auto pipe = files.initPipes(1)[0];
    pipe.setCapacity(4096);
    pipe.setContentId(1);
    pipe.initPieces(1)[0].setSize(8);
    auto descriptions = files.initDescriptions(2);
    descriptions[0].setKind(schema::FileDescription::Kind::PIPE);
    descriptions[1].setKind(schema::FileDescription::Kind::EPOLL);
    descriptions[1].initEpoll(1)[0].setFd(7);
    change(files);
    writer.write(RecordType::kFiles, message);
  });
}

TEST(ImageReader, RefusesNumbersOfWhatIsNotThere) {
  EXPECT_EQ(error_of_files_with([](schema::Files::Builder) {}), "");
  EXPECT_THAT(error_of_files_with(
                  [](schema::Files::Builder files) { files.getDescriptions()[0].setPipe(1); }),
              HasSubstr("is an end of no pipe"));
  auto epoll_of = [](schema::Files::Builder files) {
    return files.getDescriptions()[1].getEpoll();
  };
  EXPECT_THAT(error_of_files_with(
                  [&](schema::Files::Builder files) { epoll_of(files)[0].setDescription(2); }),
              HasSubstr("watches what is not there"));
  EXPECT_THAT(error_of_files_with(
                  [&](schema::Files::Builder files) { epoll_of(files)[0].setFd(1u << 31); }),
              HasSubstr("watches what is not there"));
  EXPECT_THAT(error_of_files_with([](schema::Files::Builder files) {
                files.getDescriptions()[1].initTimer().setRemaining(-1);
              }),
              HasSubstr("negative time"));
  EXPECT_THAT(error_of_files_with([](schema::Files::Builder files) {
                files.getDescriptions()[0].initLocks(1)[0].setStart(1ull << 63);
              }),
              HasSubstr("is of no file"));
}

TEST(ImageReader, RefusesPipesThatDoNotHoldWhatTheySay) {
  auto error_of = [](const std::function<void(schema::Pipe::Builder)>& change) {
    return error_of_files_with([&](schema::Files::Builder files) { change(files.getPipes()[0]); });
  };
  EXPECT_THAT(error_of([](schema::Pipe::Builder pipe) { pipe.setContentId(2); }),
              HasSubstr("the content 2 of its pipe did not come before it"));
  EXPECT_THAT(error_of([](schema::Pipe::Builder pipe) { pipe.setCapacity(7); }),
              HasSubstr("its pipe of 7 bytes holds 8"));
  EXPECT_THAT(error_of([](schema::Pipe::Builder pipe) { pipe.setCapacity(0); }),
              HasSubstr("a size of 0 bytes"));
  EXPECT_THAT(error_of([](schema::Pipe::Builder pipe) { pipe.getPieces()[0].setSize(9); }),
              HasSubstr("in pieces of 9"));
  EXPECT_THAT(error_of([](schema::Pipe::Builder pipe) { pipe.setContentId(0); }),
              HasSubstr("holds 0, in pieces of 8"));
}

TEST(ImageReader, RefusesTerminalsThatDoNotHoldWhatTheySay) {
  auto error_of = [](const std::function<void(schema::Pty::Builder)>& change) {
    return error_of_files_with([&](schema::Files::Builder files) {
      auto pty = files.initPtys(1)[0];
      pty.setContentId(1);
      auto pieces = pty.initInput(2);
      pieces[0].setSize(5);
      pieces[0].setEnd(schema::PtyPiece::End::DELIMITER);
      pieces[1].setSize(3);
      change(pty);
    });
  };
  EXPECT_EQ(error_of([](schema::Pty::Builder) {}), "");
  EXPECT_THAT(error_of([](schema::Pty::Builder pty) { pty.setContentId(2); }),
              HasSubstr("the content 2 of its terminal did not come before it"));
  EXPECT_THAT(error_of([](schema::Pty::Builder pty) { pty.getInput()[1].setSize(4); }),
              HasSubstr("has 9 bytes to read, which did not come"));
  EXPECT_THAT(error_of([](schema::Pty::Builder pty) { pty.getInput()[0].setSize(0); }),
              HasSubstr("has a line without its end"));
  EXPECT_THAT(error_of([](schema::Pty::Builder pty) { pty.setNumber(1u << 20); }),
              HasSubstr("has no number"));
  EXPECT_THAT(error_of_files_with([](schema::Files::Builder files) {
                files.getDescriptions()[0].setKind(schema::FileDescription::Kind::PTY_SLAVE);
              }),
              HasSubstr("is an end of no terminal"));
}

std::string error_of_sockets_with(
    const std::function<void(::capnp::List<schema::Socket>::Builder)>& change) {
  return error_of_image_with([&](Writer& writer) {
    write_moving_file(writer, {{0, 8}});
    ::capnp::MallocMessageBuilder message;
    auto sockets = message.initRoot<schema::Sockets>().initSockets(2);
    for (unsigned i = 0; i < 2; ++i) {
      sockets[i].setPaired(true);
      sockets[i].setPeer(2 - i);
    }
    sockets[0].setContentId(1);
    sockets[0].initMessages(1).set(0, 8);
    change(sockets);
    writer.write(RecordType::kSockets, message);
  });
}

TEST(ImageReader, RefusesSocketsThatAreNoPairs) {
  using List = ::capnp::List<schema::Socket>::Builder;
  EXPECT_EQ(error_of_sockets_with([](List) {}), "");
  EXPECT_THAT(error_of_sockets_with([](List list) { list[0].setPeer(3); }),
              HasSubstr("its socket 1 is of no pair with 3"));
  EXPECT_THAT(error_of_sockets_with([](List list) { list[0].setPeer(1); }),
              HasSubstr("its socket 1 is of no pair with 1"));
  EXPECT_THAT(error_of_sockets_with([](List list) { list[1].setPeer(0); }),
              HasSubstr("its socket 1 is of no pair with 2"));
  EXPECT_THAT(error_of_sockets_with([](List list) { list[1].setPaired(false); }),
              HasSubstr("is of no pair with"));
  EXPECT_THAT(error_of_sockets_with([](List list) { list[1].setShutdown(4); }),
              HasSubstr("its socket 2 is shut down in no direction"));
  EXPECT_THAT(error_of_sockets_with([](List list) { list[1].setContentId(2); }),
              HasSubstr("the content 2 of its socket did not come before it"));
  EXPECT_THAT(error_of_sockets_with([](List list) { list[0].getMessages().set(0, 7); }),
              HasSubstr("the messages of its socket 1 are 7 bytes"));
}

TEST(ImageReader, RefusesBytesBehindTheEnd) {
  std::vector<std::byte> image = sample_image();
  image.push_back(std::byte{0});
  EXPECT_THAT(error_of_reading(image), HasSubstr("there are bytes behind it"));
}

TEST(ImageReader, RefusesTotalsThatDoNotAgree) {
  // A whole image but for one VMA, whose numbers were made to fit: only the End can tell.
  MemorySink whole;
  Writer writer(whole);
  write_header(writer);
  write_process(writer);
  const std::size_t before = whole.bytes().size();
  write_vma(writer, 0x10000, 0x14000);
  const std::size_t after = whole.bytes().size();
  writer.end();
  std::vector<std::byte> image = whole.take();
  image.erase(image.begin() + static_cast<std::ptrdiff_t>(before),
              image.begin() + static_cast<std::ptrdiff_t>(after));
  change_frame(image, before, [](FrameHeader& frame) { frame.number = 2; });
  EXPECT_THAT(error_of_reading(image), HasSubstr("it tells of 3 records"));
}

TEST(ImageReader, RefusesPayloadsThatWereExchanged) {
  std::vector<std::byte> image = image_of([](Writer& writer) {
    write_header(writer);
    write_process(writer);
    write_vma(writer, 0x10000, 0x14000);
    write_pages(writer, {{0x10000, 1}}, kPageSize);
    write_pages(writer, {{0x11000, 1}}, kPageSize);
  });
  // The second payload is the same as the first, so only its checksum tells them apart.
  const auto find_checksum_end = [&](std::size_t from) {
    const std::byte magic[] = {std::byte{'T'}, std::byte{'F'}, std::byte{'R'}, std::byte{'K'}};
    return static_cast<std::size_t>(std::search(image.begin() + static_cast<std::ptrdiff_t>(from),
                                                image.end(), std::begin(magic), std::end(magic)) -
                                    image.begin());
  };
  std::vector<std::size_t> frames;
  for (std::size_t at = 0; at < image.size(); at = find_checksum_end(at + 1)) frames.push_back(at);
  ASSERT_EQ(frames.size(), 6u);
  std::swap_ranges(image.begin() + static_cast<std::ptrdiff_t>(frames[4] - 8),
                   image.begin() + static_cast<std::ptrdiff_t>(frames[4]),
                   image.begin() + static_cast<std::ptrdiff_t>(frames[5] - 8));
  EXPECT_THAT(error_of_reading(image), HasSubstr("the checksum of its payload is wrong"));
}

}  // namespace
}  // namespace telefork::image
