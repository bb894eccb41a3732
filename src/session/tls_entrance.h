// How connections over TCP come to a telepad, which itself never reads a byte of TLS.
//
//     accepted --0x16, the first byte of TLS--> telefork-greeter (a process for each): handshake
//              |                                   |  "the key is ..."; from then on it relays
//              |                                   v
//              |                                Arrival: whose key it is, or why it is refused
//              --"TFBULK01", joinId-----------> Join: the socket itself, for a keeper
//              --anything else, or too late---> dropped
//
// Which key is which user's is read from trusted_keys anew for each arrival. How many connections
// and handshakes wait at once is bounded; where there is no room the oldest goes, once it has had
// the time that a handshake takes.
#pragma once

#include <array>
#include <chrono>
#include <list>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <poll.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "net/public_key.h"
#include "net/tcp_stream.h"
#include "protocol/handshake.h"

namespace telefork::session {

class TlsEntrance {
 public:
  using Clock = net::Deadline::Clock;

  struct Settings {
    std::vector<std::string> listen;  // net::listen_tcp() takes each
    std::string keys;                 // the folder of key.pem, cert.pem and trusted_keys
    bool keys_are_default = true;     // where the commands look by themselves
    std::string greeter;              // the program
  };
  struct Arrival {
    UniqueFd connection;  // a socket pair, whose other end the greeter has
    std::string who;      // "10.0.0.7:4711, tf1:..."
    uid_t uid = 0;
    net::PublicKey key;
    std::optional<Error> refusal;  // then nothing that it says is to be read
  };
  struct Join {
    UniqueFd connection;
    std::string who;
    std::array<std::byte, protocol::kJoinIdSize> id{};
  };

  // Throws kUsage where there is no key, naming `telefork keygen`.
  explicit TlsEntrance(Settings settings);

  void add_interest(std::vector<pollfd>& entries) const;
  // When on_ready() is to be called though nothing is ready.
  std::optional<Clock::time_point> next_turn() const;
  // Accepts and advances whatever can be, and never waits. What is ready is in arrivals() and
  // joins(), for the caller to take.
  void on_ready();
  std::list<Arrival>& arrivals() { return arrivals_; }
  std::list<Join>& joins() { return joins_; }
  // Why whoever came as `uid` with that key would be refused now.
  std::optional<std::string> refuse_key(const net::PublicKey& key, uid_t uid) const;

  // Greeters are children of this process, which reaps them.
  bool is_greeter(pid_t child) const { return greeters_.count(child) != 0; }
  void on_reaped(pid_t child) { greeters_.erase(child); }

 private:
  // Nothing of it was read yet.
  struct Incoming {
    UniqueFd socket;
    std::string who;
    Clock::time_point since;
    bool waits_for_turn = false;  // its bytes are there, and all greeters are busy
  };
  // Its greeter has not reported yet.
  struct Handshake {
    UniqueFd channel;
    std::string who;
    pid_t greeter;
    Clock::time_point since;    // it was accepted
    Clock::time_point started;  // with its greeter
    std::vector<std::byte> report;
  };
  enum class Progress { kWaits, kDone };

  void accept_all();
  bool has_no_room() const;
  Progress advance(Incoming& incoming);
  Progress advance(Handshake& handshake);
  void start_greeter(Incoming& incoming);
  void take_report(Handshake& handshake);
  uid_t find_uid(const net::PublicKey& key) const;
  template <class Waiting>
  void advance_all(std::list<Waiting>& waiting);

  Settings settings_;
  std::list<net::TcpListener> listeners_;
  std::list<Incoming> incoming_;
  std::list<Handshake> handshakes_;
  std::set<pid_t> greeters_;
  std::list<Arrival> arrivals_;
  std::list<Join> joins_;
  std::optional<Clock::time_point> accept_again_;  // there was no descriptor for a connection
};

}  // namespace telefork::session
