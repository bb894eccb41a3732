// Asks the destination about the files of a survey, and decides for each whether it is taken from
// there or its content travels.
//
//     FileNegotiation files;                    // lives as long as the link: answers are kept
//     files.settle(survey, link);               // adds to survey.refusals
//     ...
//     files.ask_ahead(survey, link);            // what is there may have changed since
//     files.settle(later_survey, link);
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "capture/survey.h"
#include "protocol/link.h"
#include "restore/files.h"

namespace telefork::session {

class FileNegotiation {
 public:
  // Asks about all files, or as many as one message has room for; the next settle() takes the
  // answer, and does not wait for it as long.
  void ask_ahead(const capture::Survey& survey, protocol::Link& link);
  // One round trip for as many files as a message has room for, mostly all; or none where every
  // file was asked about before and did not change here since.
  void settle(capture::Survey& survey, protocol::Link& link);

 private:
  enum class Answer { kThere, kCarry, kRefused };
  // Device, inode, ctime, path, what it is opened for. Of a working directory only the path is
  // known.
  using Key = std::tuple<std::uint64_t, std::uint64_t, std::int64_t, std::string, unsigned>;
  static Key key_of(const capture::FileEntry& entry);
  static std::size_t count_in_message(const capture::FileTable& files,
                                      std::span<const std::size_t> indices);
  static void ask(const capture::Survey& survey, std::span<const std::size_t> indices,
                  protocol::Link& link);
  // About `keys`, in the order in which they were asked about.
  void take_answers(capture::Survey& survey, std::span<const Key> keys, protocol::Link& link);
  Answer judge(capture::FileTable& files, std::size_t index,
               protocol::schema::FileVerdict::Reader verdict, capture::Refusals& refusals);

  struct Known {
    Answer answer;
    std::vector<std::byte> hash;
  };
  std::map<Key, Known> known_;
  std::vector<Key> asked_;  // ahead
};

// The other end's part: says what of them is here.
void answer_about_files(protocol::schema::CheckFiles::Reader request, restore::OpenFiles& files,
                        protocol::Link& link);

}  // namespace telefork::session
