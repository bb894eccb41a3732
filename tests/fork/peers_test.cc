// Other ends that are not as this one: files of the same names, another telefork, another machine.
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <functional>

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

namespace fork_test {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMessage = 100'000;

const char* map_file(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(fd >= 0);
  void* memory = mmap(nullptr, kMessage, PROT_READ, MAP_PRIVATE, fd, 0);
  require(memory != MAP_FAILED);
  close(fd);
  return static_cast<const char*>(memory);
}

// 0: it maps no file.
ino_t mapped_inode(const void* memory) {
  std::istringstream maps(read_file("/proc/self/maps"));
  for (std::string line; std::getline(maps, line);) {
    std::istringstream words(line);
    std::string rights, offset, device;
    unsigned long start = 0, end = 0;
    char dash = 0;
    ino_t inode = 0;
    words >> std::hex >> start >> dash >> end >> rights >> offset >> device >> std::dec >> inode;
    const auto address = reinterpret_cast<unsigned long>(memory);
    if (address >= start && address < end) return inode;
  }
  return 0;
}

ino_t inode_of(const std::string& path) {
  struct stat status {};
  require(stat(path.c_str(), &status) == 0);
  return status.st_ino;
}

TEST_P(AFork, MapsEqualContentFromThereAndBringsItsOwnWhereItDiffers) {
  if (geteuid() != 0) GTEST_SKIP() << "needs: root, to mount other files there";
  make_file(path("equal"), std::string(kMessage, 'e'));
  make_file(path("equal.there"), std::string(kMessage, 'e'));
  make_file(path("different"), std::string(kMessage, 'h'));
  make_file(path("different.there"), std::string(kMessage, 't'));
  if (telepad_ > 0) stop_telepad(SIGTERM);
  socket_ = path("telepad.sock");
  ASSERT_NO_FATAL_FAILURE(start_telepad([this] {
    require(unshare(CLONE_NEWNS) == 0);
    for (const char* name : {"equal", "different"}) {
      require(mount(path(std::string(name) + ".there").c_str(), path(name).c_str(), nullptr,
                    MS_BIND, nullptr) == 0);
    }
  }));
  setenv("TELEFORK_SOCKET", "", 1);  // the agent sees this machine's files
  Outcome outcome = run([this] {
    const char* equal = map_file(path("equal"));
    const char* different = map_file(path("different"));
    const pid_t pid = fork_child("unix:" + socket_, [=, this] {
      require_equal(std::string(equal, kMessage), std::string(kMessage, 'e'));
      require_equal(mapped_inode(equal), inode_of(path("equal")));
      require_equal(inode_of(path("equal")), inode_of(path("equal.there")));
      require_equal(read_file(path("different")), std::string(kMessage, 't'));
      require_equal(std::string(different, kMessage), std::string(kMessage, 'h'));
      require(mapped_inode(different) != inode_of(path("different")));
      return 0;
    });
    require_equal(end_of(pid), exited(0));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, BringsTheContentOfAMappedFileThatWasDeletedOrRefusesIt) {
  make_file(path("gone"), std::string(kMessage, 'g'));
  Outcome outcome = run([this] {
    const char* gone = map_file(path("gone"));
    require(unlink(path("gone").c_str()) == 0);
    if (geteuid() == 0) {
      require_equal(end_of(fork_child(node(),
                                      [=] {
                                        require_equal(std::string(gone, kMessage),
                                                      std::string(kMessage, 'g'));
                                        return 7;
                                      })),
                    exited(7));
      return;
    }
    require_equal(telefork_fork(node().c_str()), -1);
    require_equal(telefork_error_code(), static_cast<int>(TELEFORK_REFUSED));
    const std::string reason = telefork_error();
    if (reason.find("this user may not open the old one") == std::string::npos) {
      fail_here(reason, Where::current());
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, SaysOnTheProgramsStderrWhatIsNotAsItWas) {
  if (geteuid() != 0) GTEST_SKIP() << "needs: root, to have more here than there";
  if (telepad_ > 0) stop_telepad(SIGTERM);
  socket_ = path("telepad.sock");
  ASSERT_NO_FATAL_FAILURE(start_telepad([] {
    const rlimit little{1000, 1000};
    require(prctl(PR_CAPBSET_DROP, CAP_MKNOD) == 0);
    require(prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE) == 0);
    require(setrlimit(RLIMIT_MSGQUEUE, &little) == 0);
  }));
  setenv("TELEFORK_SOCKET", "", 1);  // the agent has all of it
  Outcome outcome = run([this] {
    const pid_t pid = fork_child("unix:" + socket_, [] { return 7; });
    require_equal(end_of(pid), exited(7));
  });
  EXPECT_EQ(outcome.end, exited(0));
  EXPECT_TRUE(outcome.err.starts_with("telefork: process ")) << outcome.err;
  EXPECT_NE(outcome.err.find("fewer capabilities"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("its hard limit RLIMIT_MSGQUEUE is 1000, not "), std::string::npos)
      << outcome.err;
}

// Another build of the same C library: a copy with another build-id.
std::string copy_libc(const std::string& path, const std::string& copy) {
  std::string bytes = read_file(path);
  const std::string note("\x14\0\0\0\x03\0\0\0GNU\0", 12);  // elf(5): NT_GNU_BUILD_ID of 20 bytes
  const std::size_t at = bytes.find(note);
  require(at != std::string::npos);
  bytes[at + note.size()] ^= 1;
  make_file(copy, bytes);
  chmod(copy.c_str(), 0755);
  return copy;
}

TEST_P(AFork, SaysThatTheCLibraryIsAnotherOneThere) {
  if (geteuid() != 0) GTEST_SKIP() << "needs: root, to mount another libc there";
  Dl_info libc{};
  ASSERT_NE(dladdr(reinterpret_cast<void*>(&::getppid), &libc), 0);
  const std::string original = fs::canonical(libc.dli_fname);
  const std::string other = copy_libc(original, path("libc.so.6"));
  if (telepad_ > 0) stop_telepad(SIGTERM);
  socket_ = path("telepad.sock");
  ASSERT_NO_FATAL_FAILURE(start_telepad([&] {
    require(unshare(CLONE_NEWNS) == 0);
    require(mount(other.c_str(), original.c_str(), nullptr, MS_BIND, nullptr) == 0);
  }));
  setenv("TELEFORK_SOCKET", "", 1);  // the agent sees this machine's files
  Outcome outcome = run([this] {
    const pid_t pid = fork_child("unix:" + socket_, [] { return 7; });
    require_equal(end_of(pid), exited(7));
  });
  EXPECT_EQ(outcome.end, exited(0));
  EXPECT_NE(outcome.err.find(original + " is another C library here"), std::string::npos)
      << outcome.err;
}

// --- A telepad whose greeting is changed on its way ----------------------------------------------

using Bytes = std::string;
using Change = std::function<void(Bytes& body)>;

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  return address;
}

// Fewer where the other end has closed: a session ends with its agent, wherever it is.
Bytes read_exactly(int fd, std::size_t size) {
  Bytes bytes(size, 0);
  const ssize_t count = recv(fd, bytes.data(), size, MSG_WAITALL);
  bytes.resize(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  return bytes;
}

std::uint32_t number_at(const Bytes& bytes, std::size_t at) {
  std::uint32_t number = 0;
  std::memcpy(&number, bytes.data() + at, sizeof number);
  return number;
}

// docs/wire-protocol.md, 1: a preamble of 8 bytes, a length, a Cap'n Proto message.
void pass_greeting(int from, int to, const Change& change) {
  const Bytes head = read_exactly(from, 12);
  if (head.size() < 12) return;
  Bytes body = read_exactly(from, number_at(head, 8));
  if (body.size() < number_at(head, 8)) return;
  if (change) change(body);
  const Bytes all = head + body;
  const ssize_t sent = send(to, all.data(), all.size(), MSG_NOSIGNAL);
  require(sent == static_cast<ssize_t>(all.size()) || errno == EPIPE || errno == ECONNRESET);
}

// Passes one greeting each way on every connection, the answers changed, and nothing after that.
// When `stop` ends, its exit code tells whether anything more had come.
[[noreturn]] void be_peer(int listener, const std::string& telepad, int stop,
                          const Change& change) {
  std::vector<int> connections;
  for (;;) {
    pollfd entries[] = {{listener, POLLIN, 0}, {stop, POLLIN, 0}};
    poll(entries, 2, -1);
    if (entries[1].revents != 0) break;
    const int connection = accept(listener, nullptr, nullptr);
    const int beyond = socket(AF_UNIX, SOCK_STREAM, 0);
    const sockaddr_un address = address_of(telepad);
    require(connect(beyond, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    pass_greeting(connection, beyond, nullptr);
    pass_greeting(beyond, connection, change);
    connections.push_back(connection);
  }
  for (int connection : connections) {
    char more = 0;
    if (recv(connection, &more, 1, 0) > 0) _exit(1);
  }
  _exit(connections.empty() ? 2 : 0);
}

// The message's table of segments, the root pointer, then the first field.
void change_version(Bytes& body) {
  const std::size_t table = 4 * (number_at(body, 0) + 2) & ~std::size_t{7};
  body.at(table + 8) = 9;
}

void replace_text(Bytes& body, const std::string& text, const std::string& other) {
  const std::size_t at = body.find(text + '\0');
  require(at != Bytes::npos && text.size() == other.size());
  body.replace(at, text.size(), other);
}

// Leaf 7 tells of AVX2 and its like. One boot id would be one kernel, and nothing to compare.
void change_processor(Bytes& body) {
  std::string boot = read_file("/proc/sys/kernel/random/boot_id");
  boot.pop_back();
  replace_text(body, boot, std::string(boot.size(), '0'));
  const Bytes leaf("\7\0\0\0\0\0\0\0", 8);
  bool found = false;
  for (std::size_t at = 0; (at = body.find(leaf, at)) != Bytes::npos; at += 8) {
    if (at % 8 != 0 || at + 24 > body.size()) continue;
    std::memset(body.data() + at + 12, 0, 12);
    found = true;
  }
  require(found);
}

// There is no event for somebody else's child that is reaped.
void await_reaped(pid_t pid) {
  constexpr timespec kPause{0, 2'000'000};
  for (int tries = 0; kill(pid, 0) == 0; ++tries) {
    require(tries < 30'000);
    nanosleep(&kPause, nullptr);
  }
}

// It has been started for the session of the greeting, and the bulk connection is to come. Others
// of the list may end meanwhile, and then have no name.
void kill_keeper(Bytes&) {
  for (pid_t pid : list_descendants(getppid())) {
    if (slurp("/proc/" + std::to_string(pid) + "/comm") != "telefork-keeper\n") continue;
    kill(pid, SIGKILL);
    await_reaped(pid);
  }
}

struct Peer {
  const char* what;
  Change change;
  telefork_code code;
  std::vector<std::string> parts;  // of the reason
};

const Peer kPeers[] = {
    {"another protocol",
     change_version,
     TELEFORK_REFUSED,
     {"protocol is version 9 there and 3 here"}},
    {"another architecture",
     [](Bytes& body) { replace_text(body, "x86_64", "m68000"); },
     TELEFORK_REFUSED,
     {"architecture", "m68000", "x86_64"}},
    {"a lesser processor", change_processor, TELEFORK_REFUSED, {"its CPU lacks"}},
    {"a keeper that was killed", kill_keeper, TELEFORK_LOST, {"its keeper has ended"}},
};

TEST_P(AFork, TellsAPeerThatCannotServeItNothingButItsGreeting) {
  if (telepad_ < 0) {
    socket_ = path("telepad.sock");
    ASSERT_NO_FATAL_FAILURE(start_telepad());
  }
  const std::string other = path("other.sock");
  for (const Peer& peer : kPeers) {
    SCOPED_TRACE(peer.what);
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_un address = address_of(other);
    ASSERT_EQ(bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    ASSERT_EQ(listen(listener, 8), 0);
    int stop[2];
    ASSERT_EQ(pipe2(stop, O_CLOEXEC), 0);
    const pid_t server = ::fork();
    if (server == 0) {
      close(stop[1]);
      be_peer(listener, socket_, stop[0], peer.change);
    }
    close(listener);
    close(stop[0]);
    Outcome outcome = run([&] {
      require_equal(telefork_fork(("unix:" + other).c_str()), -1);
      require_equal(telefork_error_code(), static_cast<int>(peer.code));
      const std::string reason = telefork_error();
      for (const std::string& part : peer.parts) {
        if (reason.find(part) == std::string::npos) fail_here(reason, Where::current());
      }
    });
    EXPECT_TRUE(went_well(outcome));
    close(stop[1]);
    EXPECT_EQ(end_of(server), exited(0));
    unlink(other.c_str());
  }
}

// --- An installation that lacks a program --------------------------------------------------------

class AForkWithout : public AFork {
 protected:
  // On the file system of the build, where hard links do.
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs: root, to make other programs beside the built ones";
    const fs::path build = fs::path(AFork::telepad_program()).parent_path().parent_path();
    std::string pattern = build / "some-programs.XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    programs_ = pattern;
    for (const char* folder : {"bin", "libexec/telefork"}) {
      fs::create_directories(programs_ / folder);
      for (const auto& entry : fs::directory_iterator(build / folder)) {
        fs::create_hard_link(entry.path(), programs_ / folder / entry.path().filename());
      }
    }
    setenv("TELEFORK_AGENT", (programs_ / "libexec/telefork/telefork-agent").c_str(), 1);
    AFork::SetUp();
  }
  void TearDown() override {
    if (programs_.empty()) return;
    AFork::TearDown();
    unsetenv("TELEFORK_AGENT");
    fs::remove_all(programs_);
  }
  std::string kind_of_node() const override { return "local"; }
  fs::path programs_;
};

TEST_P(AForkWithout, SaysWhichProgramBeforeAnythingIsFrozen) {
  fs::remove(programs_ / GetParam());
  Outcome outcome = run([] {
    require_equal(telefork_fork("local"), -1);
    const std::string reason = telefork_error();
    const std::string name = fs::path(GetParam()).filename();
    if (reason.find(name) == std::string::npos) fail_here(reason, Where::current());
    require_equal(waitpid(-1, nullptr, WNOHANG), -1);
  });
  EXPECT_TRUE(went_well(outcome));
}

INSTANTIATE_TEST_SUITE_P(Its, AForkWithout,
                         testing::Values("libexec/telefork/telefork-keeper",
                                         "libexec/telefork/telefork-blank",
                                         "libexec/telefork/telefork-deputy",
                                         "libexec/telefork/telefork-init",
                                         "libexec/telefork/telefork-greeter", "bin/telepad"),
                         [](const auto& one) {
                           std::string name = fs::path(one.param).filename();
                           return name.substr(name.find('-') + 1);
                         });

class AForkServedWithout : public AForkWithout {};

TEST_P(AForkServedWithout, HearsOfTelepadWhy) {
  socket_ = path("telepad.sock");
  setenv("TELEFORK_TEST_TELEPAD", (programs_ / "bin/telepad").c_str(), 1);
  ASSERT_NO_FATAL_FAILURE(start_telepad());
  unsetenv("TELEFORK_TEST_TELEPAD");
  fs::remove(programs_ / GetParam());
  setenv("TELEFORK_SOCKET", socket_.c_str(), 1);
  Outcome outcome = run([] {
    for (int i = 0; i < 2; ++i) {
      require_equal(telefork_fork("local"), -1);
      const std::string reason = telefork_error();
      for (const char* part : {"telefork-agent: No such file", "TELEFORK_SOCKET="}) {
        if (reason.find(part) == std::string::npos) fail_here(reason, Where::current());
      }
      require_equal(telefork_error_code(), static_cast<int>(TELEFORK_UNSUPPORTED));
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

INSTANTIATE_TEST_SUITE_P(Its, AForkServedWithout,
                         testing::Values("libexec/telefork/telefork-agent"),
                         [](const auto&) { return "agent"; });

}  // namespace
}  // namespace fork_test
