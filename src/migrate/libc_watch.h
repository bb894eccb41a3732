// Whether the C library of a process that arrives is the one of this machine: what it opens with
// dlopen(3) or NSS later comes from here, and would find another one in its memory.
//
//     LibcWatch watch(reader, [](const std::string& path) { ... });
//     while (restorer.take(watch)) {}
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "image/record_source.h"

namespace telefork::migrate {

// Passes the records on.
class LibcWatch final : public image::RecordSource {
 public:
  // Told once the path of a libc here that is another build. A libc that did not travel is the same
  // one, by its hash.
  using OnOther = std::function<void(const std::string& path)>;

  // Both must outlive it.
  LibcWatch(image::RecordSource& source, OnOther on_other)
      : source_(source), on_other_(std::move(on_other)) {}

  image::Record next() override;
  void read_payload(std::span<std::byte> bytes) override { source_.read_payload(bytes); }
  void skip_payload() override { source_.skip_payload(); }
  void payload_taken_elsewhere(std::uint64_t bytes) override {
    source_.payload_taken_elsewhere(bytes);
  }
  std::uint64_t payload_left() const override { return source_.payload_left(); }

 private:
  void look_at(image::schema::Vma::Reader vma);

  image::RecordSource& source_;
  OnOther on_other_;
  std::vector<std::byte> build_id_;  // of the process's libc; empty: not known, or dealt with
};

}  // namespace telefork::migrate
