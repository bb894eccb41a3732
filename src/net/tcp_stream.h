// TCP sockets, for TLS to go over: nothing in telefork speaks over them without it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <netinet/in.h>
#include <sys/socket.h>

#include "base/unique_fd.h"
#include "net/address.h"
#include "net/deadline.h"

namespace telefork::net {

// One address of a machine. A name may have several, of several machines: whoever has to come to
// the same one again keeps this.
struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;

  // "10.0.0.7:7335", "[::1]:7335"
  std::string text() const;
};

// kUnreachable where there is none. Waits for the resolver, as long as that is set to wait.
std::vector<SocketAddress> resolve(const NodeAddress& node);

enum class TcpUse {
  kControl,  // watched by the kernel: a dead machine is noticed
  // On a path of less than 5 ms it has cubic, whatever the system prefers: bbr, which is better on
  // long ones, paces itself to a part of what a fast and near network could do. What was accepted
  // has it too, of which nobody knows yet what it is for.
  kBulk,
};

struct TcpConnection {
  UniqueFd socket;
  SocketAddress peer;
};
// To the first address that answers; kUnreachable with the last one's reason. `name` is for it.
TcpConnection connect_tcp(const std::vector<SocketAddress>& addresses, const std::string& name,
                          TcpUse use, Deadline deadline);
// For a connection that was made just now: by connect_tcp(), which calls it, or with a listener.
void set_up_tcp(int socket, TcpUse use);

// What it sends, on the average; 0: as much as the network takes (SO_MAX_PACING_RATE, socket(7);
// TCP needs no queueing discipline for it, net/ipv4/tcp_output.c).
void limit_rate(int socket, std::uint64_t bytes_a_second);

class TcpListener {
 public:
  int fd() const { return fd_.get(); }
  // With the port that it has; of port 0 the kernel's choice.
  const SocketAddress& address() const { return address_; }
  struct Accepted {
    UniqueFd socket;  // empty: none waits, or the one that did is gone again
    SocketAddress peer;
  };
  Accepted try_accept();

 private:
  friend TcpListener listen_tcp(std::string_view where);
  UniqueFd fd_;
  SocketAddress address_;
};

// ADDR[:PORT], an IPv6 address in brackets where a port follows; ":PORT" and "*:PORT" are every
// address of this machine. kUsage for what is no address, kFailed where it cannot be had.
TcpListener listen_tcp(std::string_view where);
// Throws what listen_tcp() would, for what is no address.
void check_listen_address(std::string_view where);

}  // namespace telefork::net
