// Pipes and FIFOs whose ends are all within the process, with what lies in them.
#include <csignal>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs.h"
#include "migrate/round_trip.h"

namespace telefork::migrate {
namespace {

class RoundTripOfPipes : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
};

void put(int fd, const char* text) {
  VERIFY(::write(fd, text, std::strlen(text)) == static_cast<ssize_t>(std::strlen(text)));
}

// One read(2) gives this, no more and no less.
void expect_read(int fd, const std::string& wanted) {
  std::string got(1 << 17, 0);
  const ssize_t count = ::read(fd, got.data(), got.size());
  VERIFY(count == static_cast<ssize_t>(wanted.size()));
  got.resize(wanted.size());
  VERIFY(got == wanted);
}

TEST_F(RoundTripOfPipes, KeepsWhatLiesInThem) {
  expect_survives([](Self& self) {
    int ends[2];
    VERIFY(::pipe(ends) == 0);
    put(ends[1], "not read yet");
    self.travel();
    expect_read(ends[0], "not read yet");
    put(ends[1], "and on");
    expect_read(ends[0], "and on");
  });
}

TEST_F(RoundTripOfPipes, KeepsAFullOne) {
  expect_survives([](Self& self) {
    int ends[2];
    VERIFY(::pipe2(ends, O_NONBLOCK) == 0);
    std::string text;
    for (int i = 0; text.size() < 65536; ++i) text += std::to_string(i);
    text.resize(65536);
    put(ends[1], text.c_str());
    VERIFY(::write(ends[1], "x", 1) < 0 && errno == EAGAIN);
    self.travel();
    VERIFY(::write(ends[1], "x", 1) < 0 && errno == EAGAIN);
    expect_read(ends[0], text);
    VERIFY(::read(ends[0], text.data(), 1) < 0 && errno == EAGAIN);
  });
}

TEST_F(RoundTripOfPipes, KeepsTheirSizeAndTheFlagsOfEachEnd) {
  expect_survives([](Self& self) {
    int ends[2];
    VERIFY(::pipe2(ends, O_CLOEXEC) == 0);
    VERIFY(::fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0 && ::fcntl(ends[0], F_SETFD, 0) == 0);
    VERIFY(::fcntl(ends[1], F_SETPIPE_SZ, 1 << 18) == 1 << 18);
    self.travel();
    VERIFY(::fcntl(ends[0], F_GETPIPE_SZ) == 1 << 18);
    VERIFY(::fcntl(ends[0], F_GETFL) == (O_RDONLY | O_NONBLOCK));
    VERIFY(::fcntl(ends[1], F_GETFL) == O_WRONLY);
    VERIFY(::fcntl(ends[0], F_GETFD) == 0 && ::fcntl(ends[1], F_GETFD) == FD_CLOEXEC);
  });
}

TEST_F(RoundTripOfPipes, KeepsPackets) {
  expect_survives([](Self& self) {
    int ends[2];
    VERIFY(::pipe2(ends, O_DIRECT | O_NONBLOCK) == 0);
    const std::string large(4096, 'l');
    put(ends[1], "one");
    put(ends[1], large.c_str());
    put(ends[1], "three");
    self.travel();
    // The last was no less a packet than the others.
    put(ends[1], "four");
    expect_read(ends[0], "one");
    expect_read(ends[0], large);
    expect_read(ends[0], "three");
    expect_read(ends[0], "four");
    VERIFY(::fcntl(ends[1], F_GETFL) == (O_WRONLY | O_DIRECT | O_NONBLOCK));
  });
}

TEST_F(RoundTripOfPipes, KeepsPacketsAmongOtherBytes) {
  expect_survives([](Self& self) {
    int ends[2];
    VERIFY(::pipe2(ends, O_NONBLOCK) == 0);
    // A page of it: into one that has room the kernel puts a packet as other bytes.
    const std::string before(4096, 'b');
    put(ends[1], before.c_str());
    VERIFY(::fcntl(ends[1], F_SETFL, O_DIRECT | O_NONBLOCK) == 0);
    put(ends[1], "packet");
    VERIFY(::fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
    put(ends[1], "stream");
    self.travel();
    put(ends[1], " goes on");
    expect_read(ends[0], before + "packet");
    expect_read(ends[0], "stream goes on");
  });
}

TEST_F(RoundTripOfPipes, KeepsAFullOneOfPackets) {
  expect_survives([](Self& self) {
    int ends[2];
    VERIFY(::pipe2(ends, O_DIRECT | O_NONBLOCK) == 0);
    for (int i = 0; i < 16; ++i) put(ends[1], "packet");
    VERIFY(::write(ends[1], "x", 1) < 0 && errno == EAGAIN);
    self.travel();
    VERIFY(::write(ends[1], "x", 1) < 0 && errno == EAGAIN);
    for (int i = 0; i < 16; ++i) expect_read(ends[0], "packet");
  });
}

TEST_F(RoundTripOfPipes, AreAsClosedAsTheyWere) {
  expect_survives([](Self& self) {
    int left[2];
    int deaf[2];
    VERIFY(::pipe(left) == 0 && ::pipe(deaf) == 0);
    put(left[1], "the last words");
    VERIFY(::close(left[1]) == 0 && ::close(deaf[0]) == 0);
    self.travel();
    expect_read(left[0], "the last words");
    expect_read(left[0], "");
    ::signal(SIGPIPE, SIG_IGN);
    VERIFY(::write(deaf[1], "x", 1) < 0 && errno == EPIPE);
  });
}

TEST_F(RoundTripOfPipes, HaveAsManyDescriptionsAsTheyHad) {
  expect_survives([](Self& self) {
    int ends[2];
    VERIFY(::pipe(ends) == 0);
    const std::string name = "/proc/self/fd/" + std::to_string(ends[0]);
    const int shared = ::dup(ends[0]);
    const int another = ::open(name.c_str(), O_RDONLY | O_NONBLOCK);
    const int writer = ::open(name.c_str(), O_WRONLY);
    const int both = ::open(name.c_str(), O_RDWR);
    VERIFY(shared >= 0 && another >= 0 && writer >= 0 && both >= 0);
    VERIFY(::close(ends[1]) == 0);
    self.travel();
    put(writer, "through");
    expect_read(shared, "through");
    put(both, "all");
    expect_read(another, "all");
    VERIFY((::fcntl(shared, F_GETFL) & O_NONBLOCK) == 0);
    VERIFY(::fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
    VERIFY((::fcntl(shared, F_GETFL) & O_NONBLOCK) != 0);
    VERIFY(::close(writer) == 0 && ::close(both) == 0);
    expect_read(shared, "");
  });
}

TEST_F(RoundTripOfPipes, StayItsOwnAsStandardStreams) {
  TripOptions options;
  options.compare = false;  // the standard streams are to be the very ones
  expect_survives(
      [](Self& self) {
        int ends[2];
        VERIFY(::pipe(ends) == 0);
        // stderr stays the test's; stdin and stdout are how travel() talks.
        const int talk = ::dup(2);
        VERIFY(::dup2(ends[1], 2) == 2 && ::close(ends[1]) == 0);
        put(2, "to itself");
        self.travel();
        put(2, ", and again");
        expect_read(ends[0], "to itself, and again");
        VERIFY(::dup2(talk, 2) == 2);
      },
      options);
}

TEST_F(RoundTripOfPipes, ThatHaveANameAreOpenedByIt) {
  ScratchFile place;
  const std::string path = place.path() + ".fifo";
  TripOptions options;
  options.compare_images = false;  // it was written to
  expect_survives(
      [path](Self& self) {
        ::unlink(path.c_str());
        VERIFY(::mkfifo(path.c_str(), 0600) == 0);
        const int both = ::open(path.c_str(), O_RDWR);
        const int reader = ::open(path.c_str(), O_RDONLY | O_NONBLOCK);
        VERIFY(both >= 0 && reader >= 0);
        put(both, "by name");
        self.travel();
        expect_read(reader, "by name");
        const int late = ::open(path.c_str(), O_WRONLY | O_NONBLOCK);
        VERIFY(late >= 0 && ::unlink(path.c_str()) == 0);
        put(late, "another");
        expect_read(both, "another");
      },
      options);
}

TEST_F(RoundTripOfPipes, GoOnAsTheyWereWhereNothingComesOfIt) {
  Traveller traveller([](Self& self) {
    int ends[2];
    VERIFY(::pipe2(ends, O_DIRECT) == 0);
    put(ends[1], "one");
    put(ends[1], "two");
    self.travel();
    expect_read(ends[0], "one");
    expect_read(ends[0], "two");
    int left = -1;
    VERIFY(::ioctl(ends[0], FIONREAD, &left) == 0 && left == 0);
  });
  TripOptions options;
  // Behind everything that the capture does with the process.
  options.capture.on_progress = [](std::uint64_t) { throw Error(Code::kFailed, "no more"); };
  EXPECT_THROW(traveller.save(options), Error);
  std::string said;
  EXPECT_EQ(traveller.finish(&said), 0) << said;
}

TEST_F(RoundTripOfPipes, WhoseOtherEndIsElsewhereStay) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  UniqueFd read(ends[0]);
  UniqueFd write(ends[1]);
  const pid_t other = ::fork();
  ASSERT_GE(other, 0);
  if (other == 0) {
    ::close(ends[0]);
    for (;;) ::pause();
  }
  const std::string link = kernel::read_fd_link(other, ends[1]);
  Traveller traveller([other, number = ends[1]](Self& self) {
    // From the other process, which keeps its own.
    const std::string path = "/proc/" + std::to_string(other) + "/fd/" + std::to_string(number);
    VERIFY(::open(path.c_str(), O_RDWR) >= 0);
    self.travel();
  });
  write.reset();
  read.reset();
  try {
    traveller.save({});
    ADD_FAILURE() << "it was saved";
  } catch (const Error& error) {
    EXPECT_NE(error.text().find(link + ": a pipe whose other end stays cannot move yet"),
              std::string::npos)
        << error.text();
  }
  ::kill(other, SIGKILL);
  EXPECT_EQ(::waitpid(other, nullptr, 0), other);
  std::string said;
  EXPECT_EQ(traveller.finish(&said), 0) << said;
}

}  // namespace
}  // namespace telefork::migrate
