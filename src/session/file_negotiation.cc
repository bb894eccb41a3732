#include "session/file_negotiation.h"

#include <cstring>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::session {
namespace {
constexpr std::chrono::seconds kPatience(60);  // the other end may have to hash large files
}

FileNegotiation::Key FileNegotiation::key_of(const capture::FileEntry& entry) {
  return {entry.identity.device, entry.identity.inode, entry.identity.ctime_ns};
}

FileNegotiation::Answer FileNegotiation::judge(capture::FileTable& files, std::size_t index,
                                               protocol::schema::FileVerdict::Reader verdict,
                                               capture::Refusals& refusals) {
  using Verdict = protocol::schema::FileVerdict::Verdict;
  capture::FileEntry& entry = files.entries()[index];
  if (verdict.getVerdict() == Verdict::SAME) return Answer::kThere;
  std::string what = fmt::format("file {}", entry.path);
  if (entry.must_be_same) {
    refusals.push_back({what,
                        "it is open for writing, and the destination does not have this very file",
                        "put it on a filesystem that both machines share, or close it"});
    return Answer::kRefused;
  }
  if (verdict.getVerdict() == Verdict::HASHED) {
    files.compute_hash(index);
    auto theirs = verdict.getHash();
    if (theirs.size() == entry.hash.size() && !entry.hash.empty() &&
        std::memcmp(theirs.begin(), entry.hash.data(), entry.hash.size()) == 0) {
      return Answer::kThere;
    }
  }
  if (!entry.readable) {
    std::string why(verdict.getWhy());
    refusals.push_back({what, why.empty() ? "the destination has another file of that name" : why,
                        "it cannot be sent: it is no regular file, or may not be read"});
    return Answer::kRefused;
  }
  return Answer::kCarry;
}

void FileNegotiation::ask(capture::Survey& survey, const std::vector<std::size_t>& indices,
                          protocol::Link& link) {
  link.send([&](protocol::schema::Message::Builder message) {
    auto files = message.initCheckFiles().initFiles(static_cast<unsigned>(indices.size()));
    for (unsigned i = 0; i < files.size(); ++i) survey.files.fill(indices[i], files[i]);
  });
  protocol::ReceivedMessage reply =
      link.expect(protocol::schema::Message::CHECK_FILES_REPLY, net::Deadline::in(kPatience));
  auto verdicts = reply->getCheckFilesReply().getVerdicts();
  if (verdicts.size() != indices.size()) {
    throw Error(Code::kCorrupt, link.node() + ": it answered about other files than were asked");
  }
  for (unsigned i = 0; i < verdicts.size(); ++i) {
    Answer answer = judge(survey.files, indices[i], verdicts[i], survey.refusals);
    const capture::FileEntry& entry = survey.files.entries()[indices[i]];
    if (answer != Answer::kRefused) known_[key_of(entry)] = {answer, entry.hash};
  }
}

void FileNegotiation::settle(capture::Survey& survey, protocol::Link& link) {
  std::vector<std::size_t> unknown;
  auto& entries = survey.files.entries();
  for (std::size_t i = 0; i < entries.size(); ++i) {
    // What is written to may be another file there tomorrow: asked every time.
    if (entries[i].must_be_same || known_.count(key_of(entries[i])) == 0) unknown.push_back(i);
  }
  if (!unknown.empty()) ask(survey, unknown, link);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    auto known = known_.find(key_of(entries[i]));
    if (known == known_.end()) continue;
    entries[i].hash = known->second.hash;
    if (known->second.answer == Answer::kCarry) survey.files.carry_content(i);
  }
}

}  // namespace telefork::session
