#include "session/file_negotiation.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::session {
FileNegotiation::Key FileNegotiation::key_of(const capture::FileEntry& entry) {
  return {entry.identity.device, entry.identity.inode, entry.identity.ctime_ns, entry.path,
          entry.access};
}

FileNegotiation::Answer FileNegotiation::judge(capture::FileTable& files, std::size_t index,
                                               protocol::schema::FileVerdict::Reader verdict,
                                               capture::Refusals& refusals) {
  using Verdict = protocol::schema::FileVerdict::Verdict;
  capture::FileEntry& entry = files.entries()[index];
  if (verdict.getVerdict() == Verdict::SAME) return Answer::kThere;
  // It is made there, and removed.
  if (entry.deleted && S_ISDIR(entry.stat.st_mode)) return Answer::kThere;
  std::string why(verdict.getWhy());
  const bool can_travel = entry.readable && !kernel::is_made_up(entry.identity.fs_type);
  if (verdict.getDenied() && (entry.must_be_same || !can_travel)) {
    refusals.push_back(
        {fmt::format("{} {}", S_ISDIR(entry.stat.st_mode) ? "directory" : "file", entry.path),
         fmt::format("the user may not open it anew: {}", why),
         "close it, or give that user access to it"});
    return Answer::kRefused;
  }
  if (S_ISDIR(entry.stat.st_mode)) {
    refusals.push_back({fmt::format("directory {}", entry.path),
                        why.empty() ? "the destination does not have this directory" : why,
                        "make it there, or have the program leave it"});
    return Answer::kRefused;
  }
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
  if (!can_travel) {
    refusals.push_back({what, why.empty() ? "the destination has another file of that name" : why,
                        "it cannot be sent: it is no regular file, or may not be read"});
    return Answer::kRefused;
  }
  return Answer::kCarry;
}

// Of the first of `indices`, whose question and answer are both within protocol::kMaxFrame. An
// answer has the path and, in words for people, the path again.
std::size_t FileNegotiation::count_in_message(const capture::FileTable& files,
                                              std::span<const std::size_t> indices) {
  constexpr std::size_t kMost = protocol::kMaxFrame / 2;
  constexpr std::size_t kBesidePaths = 1024;
  std::size_t count = 0;
  for (std::size_t bytes = 0; count < indices.size(); ++count) {
    bytes += kBesidePaths + 2 * files.entries()[indices[count]].path.size();
    if (count > 0 && bytes > kMost) break;
  }
  return count;
}

void FileNegotiation::ask(const capture::Survey& survey, std::span<const std::size_t> indices,
                          protocol::Link& link) {
  link.send([&](protocol::schema::Message::Builder message) {
    auto request = message.initCheckFiles();
    auto files = request.initFiles(static_cast<unsigned>(indices.size()));
    auto access = request.initAccess(files.size());
    for (unsigned i = 0; i < files.size(); ++i) {
      survey.files.fill(indices[i], files[i]);
      access.set(i, static_cast<std::uint8_t>(survey.files.entries()[indices[i]].access));
    }
  });
}

void FileNegotiation::ask_ahead(const capture::Survey& survey, protocol::Link& link) {
  std::vector<std::size_t> all;
  asked_.clear();
  const auto& entries = survey.files.entries();
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].is_settled()) continue;
    all.push_back(i);
    asked_.push_back(key_of(entries[i]));
  }
  if (all.empty()) return;
  std::size_t count = count_in_message(survey.files, all);
  // What settle() does not know it asks about.
  for (std::size_t i = count; i < asked_.size(); ++i) known_.erase(asked_[i]);
  asked_.resize(count);
  ask(survey, std::span(all).first(count), link);
  link.flush_some();
}

void FileNegotiation::take_answers(capture::Survey& survey, std::span<const Key> keys,
                                   protocol::Link& link) {
  protocol::ReceivedMessage reply =
      link.expect_while_heard(protocol::schema::Message::CHECK_FILES_REPLY);
  auto verdicts = reply->getCheckFilesReply().getVerdicts();
  if (verdicts.size() != keys.size()) {
    throw Error(Code::kCorrupt, link.node() + ": it answered about other files than were asked");
  }
  const auto& entries = survey.files.entries();
  std::map<Key, std::size_t> by_key;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (!entries[i].is_settled()) by_key.emplace(key_of(entries[i]), i);
  }
  for (unsigned i = 0; i < verdicts.size(); ++i) {
    known_.erase(keys[i]);
    auto entry = by_key.find(keys[i]);
    if (entry == by_key.end()) continue;
    Answer answer = judge(survey.files, entry->second, verdicts[i], survey.refusals);
    if (answer != Answer::kRefused) known_[keys[i]] = {answer, entries[entry->second].hash};
  }
}

void FileNegotiation::settle(capture::Survey& survey, protocol::Link& link) {
  std::vector<Key> fresh = std::exchange(asked_, {});
  if (!fresh.empty()) take_answers(survey, fresh, link);
  std::sort(fresh.begin(), fresh.end());
  std::vector<std::size_t> unknown;
  std::vector<Key> keys;
  auto& entries = survey.files.entries();
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].is_settled()) continue;
    Key key = key_of(entries[i]);
    if (std::binary_search(fresh.begin(), fresh.end(), key)) continue;
    // What is written to may be another file there tomorrow: asked every time.
    if (!entries[i].must_be_same && known_.count(key) != 0) continue;
    unknown.push_back(i);
    keys.push_back(key);
  }
  // One after the other: the other end answers before it reads the next.
  for (std::size_t done = 0; done < unknown.size();) {
    std::span<const std::size_t> rest = std::span(unknown).subspan(done);
    std::size_t count = count_in_message(survey.files, rest);
    ask(survey, rest.first(count), link);
    take_answers(survey, std::span(keys).subspan(done, count), link);
    done += count;
  }
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].is_settled()) continue;
    auto known = known_.find(key_of(entries[i]));
    if (known == known_.end()) continue;
    entries[i].hash = known->second.hash;
    if (known->second.answer == Answer::kCarry) survey.files.carry_content(i);
  }
}

void answer_about_files(protocol::schema::CheckFiles::Reader request, restore::OpenFiles& files,
                        protocol::Link& link) {
  using protocol::schema::Message;
  using Verdict = protocol::schema::FileVerdict::Verdict;
  link.send([&](Message::Builder message) {
    auto verdicts = message.initCheckFilesReply().initVerdicts(request.getFiles().size());
    for (unsigned i = 0; i < verdicts.size(); ++i) {
      auto ref = request.getFiles()[i];
      int access = i < request.getAccess().size() ? request.getAccess()[i] & (R_OK | W_OK) : 0;
      restore::FileVerdict verdict = files.examine(ref, access);
      verdicts[i].setPath(ref.getPath());
      verdicts[i].setWhy(verdict.why);
      verdicts[i].setDenied(verdict.denied);
      verdicts[i].setHash(::capnp::Data::Reader(
          reinterpret_cast<const kj::byte*>(verdict.hash.data()), verdict.hash.size()));
      switch (verdict.kind) {
        case restore::FileVerdict::Kind::kSame:
          verdicts[i].setVerdict(Verdict::SAME);
          break;
        case restore::FileVerdict::Kind::kHashed:
          verdicts[i].setVerdict(Verdict::HASHED);
          break;
        case restore::FileVerdict::Kind::kMissing:
          verdicts[i].setVerdict(Verdict::MISSING);
          break;
        case restore::FileVerdict::Kind::kDifferent:
          verdicts[i].setVerdict(Verdict::DIFFERENT);
          break;
      }
    }
  });
}

}  // namespace telefork::session
