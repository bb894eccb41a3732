#include "image/image_samples.h"

#include <array>

#include <capnp/message.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/remote_ptr.h"
#include "image/reader.h"
#include "image/writer.h"

namespace telefork::image::samples {
namespace {

void write_payload(RecordSink& sink, std::uint64_t bytes) {
  std::vector<std::byte> content(bytes);
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = std::byte(i * 7 + i / 256);
  sink.payload(content);
}

void set_data(::capnp::Data::Builder data) {
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::uint8_t>(i + 1);
}

void write_file_content(RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto content = message.initRoot<schema::FileContent>();
  content.setId(1);
  content.setSize(300);
  sink.begin_payload_record(RecordType::kFileContent, message, 300);
  write_payload(sink, 300);
}

void write_files(RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto files = message.initRoot<schema::Files>();
  auto description = files.initDescriptions(1)[0];
  description.setId(1);
  description.setKind(schema::FileDescription::Kind::REGULAR);
  description.setPosition(42);
  description.initFile().setPath("/usr/share/dict/words");
  description.getFile().setContentId(1);
  auto descriptors = files.initDescriptors(2);
  for (unsigned i = 0; i < 2; ++i) {
    descriptors[i].setFd(3 + i);
    descriptors[i].setDescription(1);
  }
  sink.write(RecordType::kFiles, message);
}

void write_signals(RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto signals = message.initRoot<schema::Signals>();
  signals.initActions(1)[0].setSignal(10);
  set_data(signals.initPending(1).init(0, 128));
  sink.write(RecordType::kSignals, message);
}

void write_thread(RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto thread = message.initRoot<schema::Thread>();
  thread.setTid(4711);
  thread.setComm("worker");
  set_data(thread.initRegisters(216));
  sink.write(RecordType::kThreads, message);
}

template <class T>
void write_empty(RecordSink& sink, RecordType type) {
  ::capnp::MallocMessageBuilder message;
  message.initRoot<T>();
  sink.write(type, message);
}

}  // namespace

void write_header(RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto header = message.initRoot<schema::Header>();
  header.setVersion(kFormatVersion);
  header.setPurpose(schema::Header::Purpose::SAVE);
  header.setCreator("telefork 0.1.0");
  header.initMachine().setHostname("node7");
  header.getMachine().initCpuLeaves(2)[1].setEax(0x1234);
  sink.write(RecordType::kHeader, message);
}

void write_process(RecordSink& sink) {
  ::capnp::MallocMessageBuilder message;
  auto process = message.initRoot<schema::Process>();
  process.setPid(4711);
  process.setComm("victim");
  process.initExe().setPath("/usr/bin/victim");
  process.initLayout().setBrk(0x555500002000);
  auto arguments = process.initArguments(2);
  set_data(arguments.init(0, 6));
  set_data(arguments.init(1, 3));
  sink.write(RecordType::kProcess, message);
}

void write_vma(RecordSink& sink, std::uint64_t start, std::uint64_t end) {
  ::capnp::MallocMessageBuilder message;
  auto vma = message.initRoot<schema::Vma>();
  vma.setStart(start);
  vma.setEnd(end);
  vma.setProtection(3);
  sink.write(RecordType::kVma, message);
}

void write_pages(RecordSink& sink, const std::vector<Run>& runs, std::uint64_t payload_bytes) {
  ::capnp::MallocMessageBuilder message;
  auto pages = message.initRoot<schema::Pages>();
  auto list = pages.initRuns(static_cast<unsigned>(runs.size()));
  for (unsigned i = 0; i < runs.size(); ++i) {
    list[i].setStart(runs[i].start);
    list[i].setPages(runs[i].pages);
  }
  sink.begin_payload_record(RecordType::kPages, message, payload_bytes);
  write_payload(sink, payload_bytes);
}

void write_sample_records(RecordSink& sink) {
  write_header(sink);
  write_process(sink);
  write_vma(sink, 0x10000, 0x14000);
  write_vma(sink, 0x20000, 0x24000);
  write_pages(sink, {{0x10000, 1}}, kPageSize);
  write_empty<schema::FreezeMark>(sink, RecordType::kFreezeMark);
  write_file_content(sink);
  write_files(sink);
  write_empty<schema::Sockets>(sink, RecordType::kSockets);
  write_empty<schema::Timers>(sink, RecordType::kTimers);
  write_signals(sink);
  write_thread(sink);
  write_pages(sink, {{0x20000, 1}, {0x23000, 1}}, 2 * kPageSize);
}

std::vector<std::byte> sample_image() {
  MemorySink file;
  Writer writer(file);
  write_sample_records(writer);
  writer.end();
  return file.take();
}

std::string error_of_reading(std::span<const std::byte> image) {
  try {
    MemorySource file(image);
    Reader reader(file);
    while (reader.next().type() != RecordType::kEnd) reader.skip_payload();
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kCorrupt) << error.text();
    return error.text();
  }
}

}  // namespace telefork::image::samples
