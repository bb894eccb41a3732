// The image's two interfaces over the files of net/, which knows no image.
//
//     net::FileSink file(path);
//     FileByteSink sink(file);
//     image::Writer writer(sink);
#pragma once

#include "image/byte_stream.h"
#include "net/file_stream.h"
#include "net/stream.h"

namespace telefork::protocol {

class FileByteSink final : public image::ByteSink {
 public:
  explicit FileByteSink(net::FileSink& file) : file_(file) {}
  void write(std::span<const std::byte> bytes) override { file_.write(bytes); }

 private:
  net::FileSink& file_;
};

class FileByteSource final : public image::ByteSource {
 public:
  explicit FileByteSource(net::FileSource& file) : file_(file) {}
  void read(std::span<std::byte> bytes) override { file_.read(bytes); }
  bool at_end() override { return file_.at_end(); }

 private:
  net::FileSource& file_;
};

}  // namespace telefork::protocol
