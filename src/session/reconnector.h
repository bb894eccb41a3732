// Home's side of a connection to a node that was lost: asks for another one, in a thread of its
// own, until there is one, or the node says that there will be none.
//
//     auto control = outlive_losses(std::move(stream), {connector, token, telepad, false}, ...);
//
//     ResumableStream --on_loss--> Reconnector --Hello {resume, token}--> telepad --> keeper
//                     <---offer, refuse---     <------ HelloReply {received} ------------
//
// A node that does not answer may yet, and is asked again, at most every two seconds; who says how
// long is the lease (lease.h). want() may be called where nothing is lost yet: what is there goes
// on until another one has taken its place.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "net/resumable_stream.h"
#include "session/node_connector.h"

namespace telefork::session {

class Reconnector {
 public:
  // Which connection of which session.
  struct Of {
    NodeConnector connector;  // has connected once
    std::vector<std::byte> token;
    std::vector<std::byte> telepad;
    bool pages;
  };

  Reconnector(Of of, std::shared_ptr<net::ResumableStream::Entrance> entrance);
  // Waits for an attempt that is under way, which takes some seconds where nobody answers.
  ~Reconnector();
  Reconnector(const Reconnector&) = delete;
  Reconnector& operator=(const Reconnector&) = delete;

  // For any thread.
  void want();

 private:
  void run();
  // False: to be tried again.
  bool attempt();

  Of of_;
  std::shared_ptr<net::ResumableStream::Entrance> entrance_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool wanted_ = false;
  bool over_ = false;
  std::thread thread_;  // last: it uses all of these
};

// The stream that `first` begins, of the session's client, and who connects it anew, as long as the
// stream lives. Role and on_loss of `settings` are filled in.
struct Outliving {
  std::unique_ptr<net::ResumableStream> stream;
  std::shared_ptr<Reconnector> reconnector;
};
Outliving outlive_losses(std::unique_ptr<net::Stream> first, Reconnector::Of of,
                         net::ResumableStream::Settings settings);

}  // namespace telefork::session
