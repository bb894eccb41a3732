// Every way to cut a sample image short and every way to flip a bit of it: all of them must be
// noticed, none may crash.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "image/image_samples.h"
#include "image/reader.h"
#include "image/writer.h"

namespace telefork::image {
namespace {

using samples::error_of_reading;
using ::testing::HasSubstr;

// A link that breaks.
class BrokenLink : public MemorySource {
 public:
  using MemorySource::MemorySource;
  void read(std::span<std::byte> bytes) override {
    if (bytes.size() > left()) throw Error(Code::kLost, "the connection was lost");
    MemorySource::read(bytes);
  }
};

// Where each record of the sample begins, and what the one before it was.
struct Boundary {
  std::size_t at;
  std::string after;
};

std::vector<Boundary> boundaries(std::span<const std::byte> image) {
  std::vector<Boundary> found;
  MemorySource file(image);
  Reader reader(file);
  for (;;) {
    const Record record = reader.next();
    if (record.type() == RecordType::kEnd) return found;
    reader.skip_payload();
    found.push_back(
        {reader.totals().bytes, fmt::format("the image is truncated after record {} ({})",
                                            record.number(), record_type_name(record.type()))});
  }
}

TEST(ImageDamage, CutAtARecordBoundaryNamesTheLastWholeRecord) {
  const std::vector<std::byte> image = samples::sample_image();
  const std::vector<Boundary> cuts = boundaries(image);
  ASSERT_EQ(cuts.size(), 13u);
  for (const Boundary& cut : cuts) {
    EXPECT_THAT(error_of_reading(std::span(image).first(cut.at)), HasSubstr(cut.after));
  }
}

TEST(ImageDamage, CutAtAnyByteIsNoticed) {
  const std::vector<std::byte> image = samples::sample_image();
  for (std::size_t n = 0; n < image.size(); ++n) {
    ASSERT_THAT(error_of_reading(std::span(image).first(n)), HasSubstr("truncated")) << n;
  }
}

TEST(ImageDamage, AnyFlippedBitIsNoticed) {
  std::vector<std::byte> image = samples::sample_image();
  for (std::size_t n = 0; n < image.size(); ++n) {
    for (int bit = 0; bit < 8; ++bit) {
      image[n] ^= std::byte(1 << bit);
      ASSERT_NE(error_of_reading(image), "") << "byte " << n << " bit " << bit;
      image[n] ^= std::byte(1 << bit);
    }
  }
}

TEST(ImageDamage, AnyByteMadeAnotherIsNoticed) {
  std::vector<std::byte> image = samples::sample_image();
  for (std::size_t n = 0; n < image.size(); ++n) {
    const std::byte old = image[n];
    for (std::byte value : {std::byte{0}, std::byte{0xff}, ~old}) {
      if (value == old) continue;
      image[n] = value;
      ASSERT_NE(error_of_reading(image), "") << "byte " << n;
    }
    image[n] = old;
  }
}

TEST(ImageDamage, RecordsOfALinkThatBreaksAreLostNotCorrupt) {
  MemorySink records;
  MemorySink payloads;
  Writer writer(records, payloads);
  samples::write_sample_records(writer);
  writer.end();
  for (std::size_t n = 0; n < records.bytes().size(); n += 7) {
    BrokenLink link{std::span(records.bytes()).first(n)};
    Reader reader(link, nullptr);
    try {
      while (reader.next().type() != RecordType::kEnd)
        reader.payload_taken_elsewhere(reader.payload_left());
      FAIL() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kLost) << error.text();
      EXPECT_THAT(error.text(), HasSubstr("truncated"));
    }
  }
}

TEST(ImageDamage, FlippedBitsInTheRecordsOfALinkAreNoticed) {
  MemorySink record_sink;
  MemorySink payload_sink;
  Writer writer(record_sink, payload_sink);
  samples::write_sample_records(writer);
  writer.end();
  std::vector<std::byte> records = record_sink.take();
  for (std::size_t n = 0; n < records.size() * 8; ++n) {
    records[n / 8] ^= std::byte(1 << n % 8);
    MemorySource link(records);
    Reader reader(link, nullptr);
    EXPECT_THROW(
        {
          while (reader.next().type() != RecordType::kEnd)
            reader.payload_taken_elsewhere(reader.payload_left());
        },
        Error);
    records[n / 8] ^= std::byte(1 << n % 8);
  }
}

}  // namespace
}  // namespace telefork::image
