// The stream of `ssh://[user@]host`: an ssh of this user, with a telepad of its own at the other
// end, which ends with it.
//
//     this process ==socket pair==> ssh host telepad --stdio ==> that telepad, then the keeper
//                  <---- stderr --- ssh and the node's shell: why it failed
//
// It is plain ssh, so that ssh_config, keys, the agent, known hosts and ProxyJump count as always.
// It asks nobody anything (BatchMode). It uses a connection that the user shares (ControlPath), but
// never becomes the one that is shared.
//
// When ssh ends the stream ends; what it said becomes the Error: kUnauthorised for keys that do not
// fit, kUnreachable for all else before telepad's first byte came, kLost after it.
#pragma once

#include <memory>
#include <string>

#include <sys/types.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "net/address.h"
#include "net/fd_stream.h"

namespace telefork::session {

class SshStream final : public net::Stream {
 public:
  // Starts it and does not wait. `telepad` is the program for the node's shell to start.
  static std::unique_ptr<SshStream> connect(const net::NodeAddress& node, const std::string& ssh,
                                            const std::string& telepad);
  ~SshStream() override;

  using Stream::try_write;
  std::optional<std::size_t> try_read(Bytes bytes) override;
  std::optional<std::size_t> try_write(ConstBytes head, ConstBytes body) override;
  pollfd read_interest() const override { return socket_->read_interest(); }
  pollfd write_interest() const override { return socket_->write_interest(); }
  void shutdown_write() override { socket_->shutdown_write(); }
  const std::string& name() const override { return socket_->name(); }

 private:
  SshStream(std::unique_ptr<net::FdStream> socket, UniqueFd errors, pid_t pid, std::string telepad);
  void drain_errors();
  bool await_end(net::Deadline deadline);
  std::size_t read_rest(Bytes bytes);
  // Throws kUnreachable where these are not a telepad's first bytes.
  void check_is_telepad(ConstBytes begun);
  // What ssh has said and how it ended; empty when it ended well.
  std::optional<Error> try_explain();

  std::unique_ptr<net::FdStream> socket_;
  UniqueFd errors_;
  std::string said_;  // on stderr: the end of it
  pid_t pid_;         // 0: reaped
  int status_ = 0;    // as waitpid(2) has it
  std::string telepad_;
  bool heard_ = false;  // a byte has come from the node
};

// Whether ssh's words are about who may and who may not.
bool is_about_authorisation(const std::string& said);

}  // namespace telefork::session
