#include "migrate/load.h"

#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "capture/libc_identity.h"
#include "image/reader.h"
#include "kernel/procfs.h"
#include "net/file_stream.h"
#include "protocol/byte_streams.h"
#include "protocol/machine.h"

namespace telefork::migrate {
namespace {

using image::RecordType;
using image::schema::Vma;

std::vector<std::byte> libc_build_id_at(const std::string& path) {
  capture::Survey survey;
  capture::Mapping mapping{{}, Vma::Kind::PRIVATE_FILE, std::nullopt, 0};
  mapping.vma.path = path;
  mapping.vma.execute = true;
  try {
    mapping.file = survey.files.add(path, path, false);
  } catch (const Error&) {
    return {};
  }
  survey.mappings.push_back(std::move(mapping));
  return capture::identify_libc(survey).build_id;
}

// Who has the number; nothing: it is free.
std::optional<std::string> try_name_owner(pid_t id) {
  try {
    kernel::Stat stat = kernel::read_stat(id);
    if (stat.state == 'Z') {
      return fmt::format("{}, which has ended, but whose parent {} has not waited for it",
                         stat.comm, stat.ppid);
    }
    return stat.comm;
  } catch (const Error&) {
    return std::nullopt;
  }
}

// Passes the records on, and refuses what cannot be loaded here as soon as it is known.
class Checker final : public image::RecordSource {
 public:
  Checker(image::Reader& reader, const LoadSettings& settings)
      : reader_(reader), settings_(settings) {}

  image::Record next() override {
    image::Record record = reader_.next();
    switch (record.type()) {
      case RecordType::kHeader:
        check_header(record.get<image::schema::Header>());
        break;
      case RecordType::kProcess: {
        auto process = record.get<image::schema::Process>();
        pid_ = static_cast<pid_t>(process.getPid());
        auto libc = process.getLibcBuildId();
        const auto* bytes = reinterpret_cast<const std::byte*>(libc.begin());
        libc_.assign(bytes, bytes + libc.size());
        check_id("process", pid_);
        break;
      }
      case RecordType::kVma:
        check_libc(record.get<Vma>());
        break;
      case RecordType::kThreads: {
        auto tid = static_cast<pid_t>(record.get<image::schema::Thread>().getTid());
        if (tid != pid_) check_id("thread", tid);
        break;
      }
      case RecordType::kPages:
      case RecordType::kEnd:
        // By now every thread is known, and no process was made yet.
        capture::throw_refusals(refusals_);
        break;
      default:
        break;
    }
    return record;
  }
  void read_payload(std::span<std::byte> bytes) override { reader_.read_payload(bytes); }
  void skip_payload() override { reader_.skip_payload(); }
  void payload_taken_elsewhere() override { reader_.payload_taken_elsewhere(); }
  std::uint64_t payload_left() const override { return reader_.payload_left(); }

 private:
  void check_header(image::schema::Header::Reader header) const {
    if (header.getPurpose() != image::schema::Header::Purpose::SAVE) {
      throw Error(Code::kRefused, "it is not an image that `telefork save` has made");
    }
    protocol::OwnMachine here;
    protocol::check_compatible(header.getMachine(), here.reader(), settings_.cpu_force);
  }

  void check_id(const char* what, pid_t id) {
    std::optional<std::string> owner = try_name_owner(id);
    if (!owner) return;
    refusals_.push_back(
        {fmt::format("{} id {}", what, id),
         fmt::format("it is taken here by {}, and the process must keep its ids", *owner),
         "load it when that has ended"});
  }

  // A libc that did not travel is the same one here, by its hash. With one that did, what is
  // dlopen'ed later comes from here all the same.
  void check_libc(Vma::Reader vma) {
    std::string path = vma.getFile().getPath();
    if (settings_.libc_force || libc_.empty() || vma.getFile().getContentId() == 0 ||
        !path.ends_with("/libc.so.6")) {
      return;
    }
    if (libc_build_id_at(path) == libc_) return;
    refusals_.push_back({"file " + path, "this machine has another C library",
                         "--libc=force tries it nevertheless"});
    libc_.clear();
  }

  image::Reader& reader_;
  const LoadSettings& settings_;
  capture::Refusals refusals_;
  pid_t pid_ = 0;
  std::vector<std::byte> libc_;
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
  settings.blank.process_group = settings_.process_group;
  for (int i = 0; i < 3; ++i) settings.streams[i] = std::move(settings_.streams[i]);
  settings.warn = settings_.warn;
  restorer_ = std::make_unique<restore::Restorer>(std::move(settings));
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
  restorer_.reset();
  return pid;
}

}  // namespace telefork::migrate
