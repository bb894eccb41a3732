// Asks the destination about the files of a survey, and decides for each whether it is taken from
// there or its content travels.
//
//     FileNegotiation files;                    // lives as long as the link: answers are kept
//     files.settle(survey, link);               // adds to survey.refusals
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "capture/survey.h"
#include "protocol/link.h"

namespace telefork::session {

class FileNegotiation {
 public:
  // One round trip, or none where every file was asked about before and did not change since.
  void settle(capture::Survey& survey, protocol::Link& link);

 private:
  enum class Answer { kThere, kCarry, kRefused };
  using Key = std::tuple<std::uint64_t, std::uint64_t, std::int64_t>;  // device, inode, ctime
  static Key key_of(const capture::FileEntry& entry);
  void ask(capture::Survey& survey, const std::vector<std::size_t>& indices, protocol::Link& link);
  Answer judge(capture::FileTable& files, std::size_t index,
               protocol::schema::FileVerdict::Reader verdict, capture::Refusals& refusals);

  struct Known {
    Answer answer;
    std::vector<std::byte> hash;
  };
  std::map<Key, Known> known_;
};

}  // namespace telefork::session
