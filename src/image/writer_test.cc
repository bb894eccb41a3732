#include "image/writer.h"

#include <capnp/message.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/remote_ptr.h"
#include "image/image_samples.h"
#include "image/memory_stream.h"

namespace telefork::image {
namespace {

class FullDisk : public ByteSink {
 public:
  void write(std::span<const std::byte>) override {
    throw Error(Code::kResources, "writing the image", ENOSPC);
  }
};

TEST(ImageWriter, CountsWhatItWrote) {
  MemorySink file;
  Writer writer(file);
  samples::write_sample_records(writer);
  writer.end();
  EXPECT_EQ(writer.totals().records, 14u);
  EXPECT_EQ(writer.totals().pages, 3u);
  EXPECT_EQ(writer.totals().payload_bytes, 3 * kPageSize + 300);
  EXPECT_EQ(writer.totals().bytes, file.bytes().size());
}

TEST(ImageWriter, SendsNothingButPayloadOverTheSecondSink) {
  MemorySink records;
  MemorySink payloads;
  Writer writer(records, payloads);
  samples::write_sample_records(writer);
  writer.end();
  EXPECT_EQ(payloads.bytes().size(), writer.totals().payload_bytes);
  EXPECT_EQ(records.bytes().size() + payloads.bytes().size(), writer.totals().bytes);
}

TEST(ImageWriter, PassesOnWhatTheSinkThrows) {
  FullDisk disk;
  Writer writer(disk);
  try {
    samples::write_header(writer);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kResources);
  }
}

TEST(ImageWriter, RefusesARecordThatNoReaderWouldTake) {
  MemorySink file;
  Writer writer(file);
  samples::write_header(writer);
  ::capnp::MallocMessageBuilder message;
  message.initRoot<schema::Thread>().initXstate(kMaxMetadata);
  EXPECT_THROW(writer.write(RecordType::kThreads, message), Error);
}

TEST(ImageWriterDeathTest, DiesOnMoreOrLessPayloadThanAnnounced) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  MemorySink file;
  Writer writer(file);
  samples::write_header(writer);
  ::capnp::MallocMessageBuilder message;
  message.initRoot<schema::FileContent>();
  writer.begin_payload_record(RecordType::kFileContent, message, 4);
  const std::vector<std::byte> five(5);
  EXPECT_DEATH(writer.payload(five), "bug");
  EXPECT_DEATH(writer.end(), "bug");
}

TEST(ImageWriterDeathTest, DiesOnARecordBehindTheEnd) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  MemorySink file;
  Writer writer(file);
  samples::write_header(writer);
  writer.end();
  EXPECT_DEATH(samples::write_process(writer), "bug");
}

}  // namespace
}  // namespace telefork::image
