// What a reader holds an image to whose pages came in rounds.
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

struct RoundParts {
  std::vector<std::uint32_t> rounds = {0, 1, 2};
  std::function<void(RecordSink&)> in_rounds = [](auto&) {};
  std::uint64_t staged = 0x11000;  // 0: none
  std::uint64_t dropped = 0x12000;
};

template <class T>
void write(RecordSink& sink, RecordType type,
           const std::function<void(typename T::Builder)>& fill) {
  ::capnp::MallocMessageBuilder message;
  fill(message.initRoot<T>());
  sink.write(type, message);
}

void write_rounds(RecordSink& sink, const RoundParts& parts) {
  for (const std::uint32_t number : parts.rounds) {
    write<schema::Round>(sink, RecordType::kRound,
                         [number](schema::Round::Builder round) { round.setNumber(number); });
    if (number == parts.rounds.front()) samples::write_vma(sink, 0x10000, 0x14000);
    samples::write_pages(sink, {{0x10000, 3}}, 3 * kPageSize);
  }
  parts.in_rounds(sink);
}

void write_process(RecordSink& sink, const RoundParts& parts) {
  samples::write_process(sink);
  write<schema::Vma>(sink, RecordType::kVma, [&](schema::Vma::Builder vma) {
    // Another one in the same place.
    vma.setStart(0xf000);
    vma.setEnd(0x13000);
    if (parts.staged == 0) return;
    vma.initStaged(1)[0].setStart(parts.staged);
    vma.getStaged()[0].setPages(1);
  });
  ::capnp::MallocMessageBuilder message;
  auto run = message.initRoot<schema::Pages>().initDropped(1)[0];
  run.setStart(parts.dropped);
  run.setPages(1);
  sink.begin_payload_record(RecordType::kPages, message, 0);
}

std::string error_of(const RoundParts& parts) {
  MemorySink file;
  Writer writer(file);
  samples::write_header(writer);
  write_rounds(writer, parts);
  write_process(writer, parts);
  writer.end();
  return error_of_reading(file.bytes());
}

TEST(RoundRules, TakeRoundsAheadOfTheProcess) {
  EXPECT_EQ(error_of({}), "");
  RoundParts parts;
  parts.staged = 0;
  EXPECT_EQ(error_of(parts), "");
}

TEST(RoundRules, RefuseRoundsOutOfOrder) {
  RoundParts parts;
  parts.rounds = {0, 2};
  EXPECT_THAT(error_of(parts), HasSubstr("its round 2 is not the next one"));
  parts.rounds = {1};
  EXPECT_THAT(error_of(parts), HasSubstr("its round 1 is not the next one"));
}

TEST(RoundRules, RefuseWhatIsOnlyKnownOfAProcessThatStandsStill) {
  RoundParts parts;
  parts.in_rounds = [](RecordSink& sink) {
    write<schema::Signals>(sink, RecordType::kSignals, [](auto) {});
  };
  EXPECT_THAT(error_of(parts), HasSubstr("a process or a command is what comes after the header"));
  parts.in_rounds = [](RecordSink& sink) { samples::write_pages(sink, {{0x20000, 1}}, kPageSize); };
  EXPECT_THAT(error_of(parts), HasSubstr("in no VMA that came before it"));
}

TEST(RoundRules, RefusePagesOfRoundsWhereThereWereNone) {
  RoundParts parts;
  parts.rounds = {};
  EXPECT_THAT(error_of(parts), HasSubstr("has pages of rounds, and there were none"));
  parts.staged = 0;
  EXPECT_THAT(error_of(parts), HasSubstr("it drops pages"));
}

TEST(RoundRules, RefusePagesOfRoundsOutsideTheirVma) {
  RoundParts parts;
  parts.staged = 0x13000;
  EXPECT_THAT(error_of(parts), HasSubstr("overlaps or leaves the VMA"));
  parts = {};
  parts.dropped = 0x13000;
  EXPECT_THAT(error_of(parts), HasSubstr("in no VMA that came before it"));
}

TEST(RoundRules, RefuseRoundsOfACommandAndBehindTheProcess) {
  MemorySink of_command;
  {
    Writer writer(of_command);
    samples::write_header(writer);
    write_rounds(writer, {});
    write<schema::Command>(writer, RecordType::kCommand, [](auto) {});
    writer.end();
  }
  EXPECT_THAT(error_of_reading(of_command.bytes()), HasSubstr("a command has no rounds of pages"));
  MemorySink late;
  {
    Writer writer(late);
    samples::write_header(writer);
    samples::write_process(writer);
    write<schema::Round>(writer, RecordType::kRound, [](auto) {});
    writer.end();
  }
  EXPECT_THAT(error_of_reading(late.bytes()), HasSubstr("its rounds came before it"));
}

}  // namespace
}  // namespace telefork::image
