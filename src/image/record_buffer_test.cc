#include "image/record_buffer.h"

#include <cstring>
#include <string>

#include <gtest/gtest.h>

#include "image/memory_stream.h"
#include "image/writer.h"

namespace telefork::image {
namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

void write_some(RecordSink& sink) {
  ::capnp::MallocMessageBuilder header;
  header.initRoot<schema::Header>().setCreator("somebody");
  sink.write(RecordType::kHeader, header);
  ::capnp::MallocMessageBuilder content;
  auto record = content.initRoot<schema::FileContent>();
  record.setId(7);
  record.setSize(9);
  sink.begin_payload_record(RecordType::kFileContent, content, 9);
  sink.payload(bytes_of("in "));
  sink.payload(bytes_of("pieces"));
  ::capnp::MallocMessageBuilder empty;
  empty.initRoot<schema::FileContent>().setId(8);
  sink.begin_payload_record(RecordType::kFileContent, empty, 0);
}

TEST(RecordBuffer, WritesWhatItWasGivenAsIfThatHadBeenWrittenAtOnce) {
  MemorySink at_once;
  Writer directly(at_once);
  write_some(directly);
  directly.end();

  RecordBuffer buffer;
  write_some(buffer);
  MemorySink later;
  Writer writer(later);
  buffer.write_to(writer);
  buffer.write_to(writer);  // it is empty by then
  writer.end();
  EXPECT_EQ(later.bytes(), at_once.bytes());
}

}  // namespace
}  // namespace telefork::image
