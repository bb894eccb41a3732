// How `telefork home` asks the session process that stays with a deputy: a socket beside its entry
// in the registry, which only its user and root can reach.
//
//     HomeCall call(folder);                       // the session process
//     // readable call.fd(): auto caller = call.try_accept();
//     caller->is_gone()                            // it is not wanted any more
//     caller->answer({...});
//
//     UniqueFd talk = connect_home_call(path, {stop_at});    // the command
//     HomeAnswer answer = receive_home_answer(talk);
//
// Owned by one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "net/unix_stream.h"
#include "session/return_session.h"

namespace telefork::session {

struct HomeAnswer {
  std::optional<Error> error;
  bool stood_still = false;  // before it went on there
  std::string node;
  std::size_t processes = 1;
  std::uint64_t bytes_sent = 0;
  std::uint64_t pages_sent = 0;
  double freeze_ms = 0;
  double total_ms = 0;
  std::vector<std::pair<std::string, double>> shares;
  std::vector<std::string> warnings;
};
std::string encode_home_answer(const HomeAnswer& answer);
// kCorrupt for what is none.
HomeAnswer decode_home_answer(const std::string& text);

class HomeCaller {
 public:
  HomeCaller(UniqueFd talk, std::string stop_at)
      : talk_(std::move(talk)), stop_at_(std::move(stop_at)) {}
  int fd() const { return talk_.get(); }
  // The step at which the session process is to stop, for tests.
  const std::string& stop_at() const { return stop_at_; }
  bool is_gone() const;
  void answer(const HomeAnswer& answer) const;

 private:
  UniqueFd talk_;
  std::string stop_at_;
};

class HomeCall {
 public:
  // Without a folder nobody can call.
  explicit HomeCall(const std::string& registry);
  int fd() const { return listener_ ? listener_->fd() : -1; }
  // Empty where who called is gone again, or may not.
  std::optional<HomeCaller> try_accept();

 private:
  std::optional<net::UnixListener> listener_;
};

// kUnreachable where nobody listens there.
UniqueFd connect_home_call(const std::string& path, const std::string& stop_at);
// Waits for it. kLost where the session process has ended.
HomeAnswer receive_home_answer(const UniqueFd& talk);

}  // namespace telefork::session
