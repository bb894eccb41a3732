#include "migrate/libc_watch.h"

#include "base/error.h"
#include "capture/libc_identity.h"

namespace telefork::migrate {
namespace {

using image::RecordType;
using image::schema::Vma;

std::vector<std::byte> build_id_at(const std::string& path) {
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

}  // namespace

image::Record LibcWatch::next() {
  image::Record record = source_.next();
  if (record.type() == RecordType::kProcess) {
    auto id = record.get<image::schema::Process>().getLibcBuildId();
    const auto* bytes = reinterpret_cast<const std::byte*>(id.begin());
    build_id_.assign(bytes, bytes + id.size());
  } else if (record.type() == RecordType::kVma) {
    look_at(record.get<Vma>());
  }
  return record;
}

void LibcWatch::look_at(Vma::Reader vma) {
  std::string path = vma.getFile().getPath();
  if (build_id_.empty() || vma.getFile().getContentId() == 0 || !path.ends_with("/libc.so.6")) {
    return;
  }
  if (build_id_at(path) != build_id_) on_other_(path);
  build_id_.clear();
}

}  // namespace telefork::migrate
