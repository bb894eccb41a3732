// Sockets that are connected with nothing outside of the process.
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "migrate/round_trip.h"
#include "net/fd_passing.h"

namespace telefork::migrate {
namespace {

class RoundTripOfSockets : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
};

struct Pair {
  explicit Pair(int type) { VERIFY(::socketpair(AF_UNIX, type, 0, ends) == 0); }
  int operator[](int i) const { return ends[i]; }
  int ends[2] = {-1, -1};
};

void say(int fd, const std::string& text) {
  VERIFY(::send(fd, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
}

void expect_heard(int fd, const std::string& wanted) {
  std::string got(1 << 17, 0);
  const ssize_t count = ::recv(fd, got.data(), got.size(), MSG_DONTWAIT);
  VERIFY(count == static_cast<ssize_t>(wanted.size()));
  got.resize(wanted.size());
  VERIFY(got == wanted);
}

void expect_silence(int fd) {
  char byte = 0;
  VERIFY(::recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

TEST_F(RoundTripOfSockets, KeepsWhatAStreamHasNotRead) {
  expect_survives([](Self& self) {
    Pair pair(SOCK_STREAM | SOCK_NONBLOCK);
    say(pair[0], "there");
    say(pair[1], "back ");
    say(pair[1], "again");
    VERIFY(::fcntl(pair[1], F_SETFD, FD_CLOEXEC) == 0);
    const int shared = ::dup(pair[0]);
    self.travel();
    expect_heard(pair[1], "there");
    expect_silence(pair[1]);
    expect_heard(shared, "back again");
    say(shared, "on");
    expect_heard(pair[1], "on");
    VERIFY((::fcntl(pair[0], F_GETFL) & O_NONBLOCK) != 0);
    VERIFY(::fcntl(pair[1], F_GETFD) == FD_CLOEXEC);
    ucred peer{};
    socklen_t size = sizeof(peer);
    VERIFY(::getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0);
    VERIFY(peer.pid == ::getpid() && peer.uid == ::getuid());
  });
}

TEST_F(RoundTripOfSockets, KeepsMessages) {
  for (int type : {int{SOCK_DGRAM}, int{SOCK_SEQPACKET}}) {
    expect_survives([type](Self& self) {
      Pair pair(type);
      const std::string large(100'000, 'l');
      say(pair[0], "one");
      say(pair[0], "");
      say(pair[0], large);
      say(pair[1], "answer");
      self.travel();
      say(pair[0], "more");
      for (const std::string& text :
           {std::string("one"), std::string(), large, std::string("more")}) {
        expect_heard(pair[1], text);
      }
      expect_silence(pair[1]);
      expect_heard(pair[0], "answer");
    });
  }
}

TEST_F(RoundTripOfSockets, KeepsAFullOne) {
  expect_survives([](Self& self) {
    Pair pair(SOCK_STREAM | SOCK_NONBLOCK);
    std::string sent;
    for (;;) {
      const std::string piece(5000, static_cast<char>('a' + sent.size() % 23));
      const ssize_t count = ::send(pair[0], piece.data(), piece.size(), 0);
      if (count < 0) break;
      sent += piece.substr(0, static_cast<std::size_t>(count));
    }
    VERIFY(errno == EAGAIN);
    self.travel();
    std::string got;
    std::vector<char> buffer(1 << 16);
    for (;;) {
      const ssize_t count = ::recv(pair[1], buffer.data(), buffer.size(), 0);
      if (count <= 0) break;
      got.append(buffer.data(), static_cast<std::size_t>(count));
    }
    VERIFY(got == sent);
  });
}

TEST_F(RoundTripOfSockets, AreAsShutDownAsTheyWere) {
  expect_survives([](Self& self) {
    Pair half(SOCK_STREAM);
    say(half[0], "the last words");
    VERIFY(::shutdown(half[0], SHUT_WR) == 0);
    Pair datagrams(SOCK_DGRAM);
    VERIFY(::shutdown(datagrams[0], SHUT_WR) == 0);
    Pair closed(SOCK_SEQPACKET);
    say(closed[0], "and gone");
    VERIFY(::close(closed[0]) == 0);
    self.travel();
    expect_heard(half[1], "the last words");
    expect_heard(half[1], "");
    VERIFY(::send(half[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    say(half[1], "answer");
    expect_heard(half[0], "answer");
    VERIFY(::send(datagrams[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    say(datagrams[1], "datagram");
    expect_heard(datagrams[0], "datagram");
    expect_heard(closed[1], "and gone");
    expect_heard(closed[1], "");
    VERIFY(::send(closed[1], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
  });
}

void set(int fd, int level, int name, int value) {
  VERIFY(::setsockopt(fd, level, name, &value, sizeof(value)) == 0);
}

int get(int fd, int level, int name) {
  int value = 0;
  socklen_t size = sizeof(value);
  VERIFY(::getsockopt(fd, level, name, &value, &size) == 0);
  return value;
}

TEST_F(RoundTripOfSockets, KeepTheirOptions) {
  expect_survives([](Self& self) {
    Pair pair(SOCK_STREAM);
    set(pair[0], SOL_SOCKET, SO_SNDBUF, 30'000);
    set(pair[1], SOL_SOCKET, SO_PASSCRED, 1);
    set(pair[1], SOL_SOCKET, SO_PEEK_OFF, 3);
    say(pair[1], "unread");
    self.travel();
    VERIFY(get(pair[0], SOL_SOCKET, SO_SNDBUF) == 60'000);
    VERIFY(get(pair[1], SOL_SOCKET, SO_PASSCRED) == 1);
    VERIFY(get(pair[1], SOL_SOCKET, SO_PEEK_OFF) == 3);
    expect_heard(pair[0], "unread");
  });
}

TEST_F(RoundTripOfSockets, StayItsOwnAsStandardStreams) {
  TripOptions options;
  options.compare = false;  // the standard streams are to be the very ones
  expect_survives(
      [](Self& self) {
        Pair pair(SOCK_STREAM);
        const int talk = ::dup(2);
        VERIFY(::dup2(pair[1], 2) == 2 && ::close(pair[1]) == 0);
        self.travel();
        say(2, "to itself");
        expect_heard(pair[0], "to itself");
        VERIFY(::dup2(talk, 2) == 2);
      },
      options);
}

struct Address {
  explicit Address(int fd) {
    socklen_t size = sizeof(storage);
    VERIFY(::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size) == 0);
  }
  bool operator==(const Address& other) const {
    return std::memcmp(&storage, &other.storage, sizeof(storage)) == 0;
  }
  sockaddr_storage storage{};
};

// A port that the kernel chooses, of the machine itself.
void bind_somewhere(int fd, int family) {
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6;
  six.sin6_addr = in6addr_loopback;
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (family == AF_INET6) {
    VERIFY(::bind(fd, reinterpret_cast<sockaddr*>(&six), sizeof(six)) == 0);
  } else {
    VERIFY(::bind(fd, reinterpret_cast<sockaddr*>(&four), sizeof(four)) == 0);
  }
}

void expect_a_caller(int listener) {
  const Address address(listener);
  const int caller = ::socket(address.storage.ss_family, SOCK_STREAM, 0);
  VERIFY(::connect(caller, reinterpret_cast<const sockaddr*>(&address.storage),
                   sizeof(address.storage)) == 0);
  const int accepted = ::accept(listener, nullptr, nullptr);
  VERIFY(accepted >= 0);
  say(caller, "hello");
  expect_heard(accepted, "hello");
}

TEST_F(RoundTripOfSockets, GoOnListening) {
  for (int family : {AF_INET, AF_INET6}) {
    expect_survives([family](Self& self) {
      const int listener = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
      set(listener, SOL_SOCKET, SO_REUSEADDR, 1);
      if (family == AF_INET6) set(listener, IPPROTO_IPV6, IPV6_V6ONLY, 1);
      set(listener, IPPROTO_TCP, TCP_NODELAY, 1);
      bind_somewhere(listener, family);
      VERIFY(::listen(listener, 17) == 0);
      const Address before(listener);
      const int fresh = ::socket(family, SOCK_STREAM, 0);
      self.travel();
      VERIFY(Address(listener) == before);
      expect_a_caller(listener);
      tcp_info info{};
      socklen_t size = sizeof(info);
      VERIFY(::getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &size) == 0);
      VERIFY(info.tcpi_state == TCP_LISTEN && info.tcpi_sacked == 17);
      VERIFY(get(listener, IPPROTO_TCP, TCP_NODELAY) == 1);
      if (family == AF_INET6) VERIFY(get(listener, IPPROTO_IPV6, IPV6_V6ONLY) == 1);
      VERIFY(::connect(fresh, reinterpret_cast<const sockaddr*>(&before.storage),
                       sizeof(before.storage)) == 0);
    });
  }
}

TEST_F(RoundTripOfSockets, KeepTheirPortsOfUdp) {
  expect_survives([](Self& self) {
    const int bound = ::socket(AF_INET, SOCK_DGRAM, 0);
    const int loose = ::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    set(loose, SOL_SOCKET, SO_BROADCAST, 1);
    bind_somewhere(bound, AF_INET);
    const Address before(bound);
    self.travel();
    VERIFY(Address(bound) == before);
    VERIFY(get(loose, SOL_SOCKET, SO_BROADCAST) == 1);
    VERIFY(::sendto(loose, "hi", 2, 0, reinterpret_cast<const sockaddr*>(&before.storage),
                    sizeof(before.storage)) == 2);
    expect_heard(bound, "hi");
  });
}

void expect_refused(const Victim& victim, const std::string& why) {
  Traveller traveller(victim);
  try {
    traveller.save({});
    ADD_FAILURE() << "it was saved";
  } catch (const Error& error) {
    EXPECT_NE(error.text().find(why), std::string::npos) << error.text();
  }
  std::string said;
  EXPECT_EQ(traveller.finish(&said), 0) << said;
}

TEST_F(RoundTripOfSockets, StayWhereSomebodyWaits) {
  expect_refused(
      [](Self& self) {
        const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
        bind_somewhere(listener, AF_INET);
        VERIFY(::listen(listener, 1) == 0);
        const Address address(listener);
        const int caller = ::socket(AF_INET, SOCK_STREAM, 0);
        VERIFY(::connect(caller, reinterpret_cast<const sockaddr*>(&address.storage),
                         sizeof(address.storage)) == 0);
        VERIFY(::dup2(caller, 1000) == 1000 && ::close(caller) == 0);
        self.travel();
        VERIFY(::accept(listener, nullptr, nullptr) >= 0);
      },
      "it has what was not accepted or read yet");
}

TEST_F(RoundTripOfSockets, StayInTheirMulticastGroups) {
  expect_refused(
      [](Self& self) {
        const int member = ::socket(AF_INET, SOCK_DGRAM, 0);
        ip_mreqn request{};
        request.imr_multiaddr.s_addr = htonl(0xef010203);
        request.imr_ifindex = static_cast<int>(::if_nametoindex("lo"));
        VERIFY(::setsockopt(member, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof(request)) == 0);
        self.travel();
      },
      "a socket cannot move yet");
}

TEST_F(RoundTripOfSockets, KeepDescriptorsOnTheirWay) {
  expect_survives([](Self& self) {
    Pair pair(SOCK_STREAM);
    int ends[2];
    VERIFY(::pipe(ends) == 0);
    std::byte byte{'x'};
    net::send_fds(pair[0], std::span(&byte, 1), std::span(&ends[0], 1));
    VERIFY(::close(ends[0]) == 0);
    self.travel();
    VERIFY(::write(ends[1], "y", 1) == 1);
    const net::ReceivedFds came =
        net::receive_fds(pair[1], std::span(&byte, 1), 1, net::Deadline::never());
    VERIFY(came.bytes == 1 && byte == std::byte{'x'} && came.fds.size() == 1);
    VERIFY(::read(came.fds[0].get(), &byte, 1) == 1 && byte == std::byte{'y'});
  });
}

TEST_F(RoundTripOfSockets, StayWithTheirPeers) {
  expect_refused(
      [](Self& self) {
        Pair pair(SOCK_STREAM);
        const pid_t child = ::fork();
        VERIFY(child >= 0);
        if (child == 0) {
          char byte = 0;
          [[maybe_unused]] const ssize_t n = ::close(pair[0]) + ::read(pair[1], &byte, 1);
          ::_exit(0);
        }
        VERIFY(::close(pair[1]) == 0);
        self.travel();
        VERIFY(::close(pair[0]) == 0 && ::waitpid(child, nullptr, 0) == child);
      },
      "a socket cannot move yet");
}

TEST_F(RoundTripOfSockets, GoOnAsTheyWereWhereNothingComesOfIt) {
  Traveller traveller([](Self& self) {
    Pair pair(SOCK_SEQPACKET);
    set(pair[1], SOL_SOCKET, SO_PEEK_OFF, 2);
    say(pair[0], "one");
    say(pair[0], "two");
    self.travel();
    VERIFY(get(pair[1], SOL_SOCKET, SO_PEEK_OFF) == 2);
    expect_heard(pair[1], "one");
    expect_heard(pair[1], "two");
    expect_silence(pair[1]);
  });
  TripOptions options;
  options.capture.on_progress = [](std::uint64_t) { throw Error(Code::kFailed, "no more"); };
  EXPECT_THROW(traveller.save(options), Error);
  std::string said;
  EXPECT_EQ(traveller.finish(&said), 0) << said;
}

}  // namespace
}  // namespace telefork::migrate
