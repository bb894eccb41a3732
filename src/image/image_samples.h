// What the tests of this folder share: a small but complete image, and ways to read one.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "image/memory_stream.h"
#include "image/record_sink.h"

namespace telefork::image::samples {

// Every record type but Command, two VMAs, pages in two records, one file content. No End.
void write_sample_records(RecordSink& sink);
void write_header(RecordSink& sink);
void write_process(RecordSink& sink);
void write_vma(RecordSink& sink, std::uint64_t start, std::uint64_t end);

struct Run {
  std::uint64_t start;
  std::uint64_t pages;
};
// `payload_bytes` of payload, whatever the runs say.
void write_pages(RecordSink& sink, const std::vector<Run>& runs, std::uint64_t payload_bytes);

// As a file, with its End.
std::vector<std::byte> sample_image();

// Reads all of it, payloads too. Returns "" or the text of the Error; fails the test if that is
// not of code kCorrupt.
std::string error_of_reading(std::span<const std::byte> image);

}  // namespace telefork::image::samples
