#include "migrate/load.h"

#include <utility>

#include "base/error.h"
#include "capture/refusal.h"
#include "image/reader.h"
#include "migrate/libc_watch.h"
#include "net/file_stream.h"
#include "protocol/byte_streams.h"
#include "protocol/machine.h"

namespace telefork::migrate {
namespace {

using image::RecordType;

// Passes the records on, and refuses what cannot be loaded here as soon as it is known.
class Checker final : public image::RecordSource {
 public:
  Checker(image::RecordSource& records, const LoadSettings& settings)
      : settings_(settings),
        records_(records, [this](const std::string& path) { on_other_libc(path); }) {}

  image::Record next() override {
    image::Record record = records_.next();
    switch (record.type()) {
      case RecordType::kHeader:
        check_header(record.get<image::schema::Header>());
        break;
      case RecordType::kPages:
      case RecordType::kEnd:
        // By now every mapping is known, and no process was made yet.
        capture::throw_refusals(refusals_);
        break;
      default:
        break;
    }
    return record;
  }
  void read_payload(std::span<std::byte> bytes) override { records_.read_payload(bytes); }
  void skip_payload() override { records_.skip_payload(); }
  void payload_taken_elsewhere(std::uint64_t bytes) override {
    records_.payload_taken_elsewhere(bytes);
  }
  std::uint64_t payload_left() const override { return records_.payload_left(); }

 private:
  void check_header(image::schema::Header::Reader header) const {
    if (header.getPurpose() != image::schema::Header::Purpose::SAVE) {
      throw Error(Code::kRefused, "it is not an image that `telefork save` has made");
    }
    protocol::OwnMachine here;
    protocol::check_compatible(header.getMachine(), here.reader(), settings_.cpu_force);
  }

  void on_other_libc(const std::string& path) {
    if (settings_.libc_force) return;
    refusals_.push_back({"file " + path, "this machine has another C library",
                         "--libc=force tries it nevertheless"});
  }

  const LoadSettings& settings_;
  LibcWatch records_;
  capture::Refusals refusals_;
};

}  // namespace

void Load::restore() {
  net::FileSource file(settings_.path);
  protocol::FileByteSource source(file);
  image::Reader reader(source);
  Checker checker(reader, settings_);
  restore::RestoreSettings settings;
  settings.blank.program = settings_.blank_program;
  settings.blank.pid_required = true;
  settings.init_program = settings_.init_program;
  settings.blank.process_group = settings_.process_group;
  for (int i = 0; i < 3; ++i) settings.streams[i] = std::move(settings_.streams[i]);
  settings.warn = settings_.warn;
  restorer_ = std::make_unique<restore::TreeRestorer>(std::move(settings));
  try {
    while (restorer_->take(checker)) {
    }
    totals_ = reader.totals();
    restorer_->finish();
  } catch (Error& error) {
    restorer_.reset();
    if (error.code() == Code::kCorrupt) error.add_context(settings_.path);
    throw;
  }
  guest_pid_ = restorer_->guest_pid();
}

pid_t Load::release() {
  pid_t pid = restorer_->release();
  namespace_ = restorer_->take_namespace();
  if (namespace_) namespace_->release();
  restorer_.reset();
  return pid;
}

}  // namespace telefork::migrate
