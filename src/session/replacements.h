// The node's side of connections that outlive a loss (net/resumable_stream.h): those that come in
// the place of lost ones, which the telepad passes on once their key and token are proven.
//
//     Replacements replacements(resumes);
//     control = replacements.of_control(socket, {}, name);       // from the first byte on
//     pages = replacements.of_pages(std::move(stream));
//     ...
//     replacements.begin(trust, link);                           // home has given up its process
//
// Owned by the keeper's thread; the page connection may be another one's.
#pragma once

#include <memory>
#include <string>

#include "base/unique_fd.h"
#include "net/resumable_stream.h"
#include "protocol/link.h"
#include "session/trust_channel.h"

namespace telefork::session {

class Replacements {
 public:
  // Not `resumes`: the connections are plain ones.
  explicit Replacements(bool resumes) : resumes_(resumes) {}

  // `out`: its way out, where that is another descriptor.
  std::unique_ptr<net::Stream> of_control(UniqueFd socket, UniqueFd out, const std::string& name);
  std::unique_ptr<net::Stream> of_pages(std::unique_ptr<net::Stream> first);
  // From now on a loss is none. `trust` and `link`, which has the control connection, must outlive
  // that. Nothing where it is not resumable.
  void begin(TrustAsker& trust, protocol::Link& link);

 private:
  using Entrance = net::ResumableStream::Entrance;

  std::unique_ptr<net::Stream> make(std::unique_ptr<net::Stream> first,
                                    std::shared_ptr<Entrance>& entrance);
  void take(TrustAsker& trust, net::ResumableStream& control);

  bool resumes_;
  std::shared_ptr<Entrance> control_;
  std::shared_ptr<Entrance> pages_;
};

}  // namespace telefork::session
