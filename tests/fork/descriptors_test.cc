// Descriptors and shared memory: what travels, what is refused, what is left at home.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <set>

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

namespace fork_test {
namespace {

// Of a call that must fail.
struct Failure {
  telefork_code code = TELEFORK_OK;
  int error = 0;
  std::string text;
};

Failure failure_of_fork(const std::string& node, const telefork::Options& options = {}) {
  Failure failure;
  try {
    if (telefork::fork(node, options) == 0) _exit(88);
    fail_here("the fork did not fail", Where::current());
  } catch (const telefork::Error& error) {
    failure = {error.code(), error.error(), error.what()};
  }
  require_equal(waitpid(-1, nullptr, 0), -1);  // no child
  require_equal(errno, ECHILD);
  return failure;
}

void require_contains(const std::string& text, const std::string& part,
                      const Where& where = Where::current()) {
  if (text.find(part) == std::string::npos) fail_here("no '" + part + "' in: " + text, where);
}

std::string read_some(int fd, std::size_t size) {
  std::string text(size, '\0');
  const ssize_t n = read(fd, text.data(), size);
  require(n >= 0);
  text.resize(static_cast<std::size_t>(n));
  return text;
}

// More than one message has room for; and many descriptions of one file.
TEST_P(AFork, TakesThousandsOfFiles) {
  Outcome outcome = run([this] {
    rlimit limit{};
    require(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    require(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    const std::size_t count = std::min<rlim_t>(4000, limit.rlim_max / 4);
    const std::string name = path(std::string(200, 'x'));
    std::vector<int> files, again;
    for (std::size_t i = 0; i < count; ++i) {
      const std::string one = name + std::to_string(i);
      files.push_back(open(one.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
      again.push_back(open(name.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0600));
      require(files.back() >= 0 && again.back() >= 0);
      require(write(files.back(), &i, sizeof i) == sizeof i);
    }
    const int copy = dup(again.back());
    for (int times = 0; times < 2; ++times) {
      const pid_t pid = fork_child(node(), [&] {
        for (std::size_t i = 0; i < count; ++i) {
          std::size_t number = count;
          require(pread(files[i], &number, sizeof number, 0) == sizeof number && number == i);
          require_equal(lseek(again[i], static_cast<off_t>(i), SEEK_SET), static_cast<off_t>(i));
        }
        for (std::size_t i = 0; i < count; ++i) {
          require_equal(lseek(again[i], 0, SEEK_CUR), static_cast<off_t>(i));
        }
        require_equal(lseek(copy, 0, SEEK_CUR), static_cast<off_t>(count - 1));
        return 7;
      });
      require_equal(end_of(pid), exited(7));
    }
    for (int fd : files) close(fd);
    for (int fd : again) close(fd);
    close(copy);
  });
  EXPECT_TRUE(went_well(outcome));
}

// What it holds changes at any time, as it does for a child of fork(2).
TEST_P(AFork, TakesFilesThatAreBeingWrittenTo) {
  make_file(path("log"), "a line\n");
  Outcome outcome = run([this] {
    const pid_t writer = ::fork();
    if (writer == 0) {
      const int file = open(path("log").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
      for (;;) write_all(file, "a line\n");
    }
    const int reading = open(path("log").c_str(), O_RDONLY | O_CLOEXEC);
    const int writing = open(path("log").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
    require(reading >= 0 && writing >= 0);
    for (int i = 0; i < 5; ++i) {
      const pid_t pid = fork_child(node(), [=] {
        write_all(writing, "a line\n");
        return read_some(reading, 7) == "a line\n" ? 0 : 1;
      });
      require_equal(end_of(pid), exited(0));
    }
    kill(writer, SIGKILL);
    require_equal(end_of(writer), killed(SIGKILL));
    close(reading);
    close(writing);
  });
  EXPECT_TRUE(went_well(outcome));
}

// The next session looks at the program's files ahead of the call: it holds none of them.
TEST_P(AFork, LeavesTheProgramsFilesToItself) {
  make_file(path("file"), "text");
  Outcome outcome = run([this] {
    const int file = open(path("file").c_str(), O_RDONLY | O_CLOEXEC);
    require_equal(end_of(fork_child(node(), [] { return 5; })), exited(5));
    require_equal(end_of(fork_child(node(), [] { return 5; })), exited(5));
    // Nobody else has it open then: fcntl(2), F_SETLEASE. It may just be looking.
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (fcntl(file, F_SETLEASE, F_WRLCK) != 0) {
      require_equal(errno, EAGAIN);
      require(std::chrono::steady_clock::now() < end);
      usleep(10'000);
    }
    close(file);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, TakesAFileAlongWithItsOffset) {
  make_file(path("file"), "0123456789");
  Outcome outcome = run([this] {
    const int file = open(path("file").c_str(), O_RDONLY | O_CLOEXEC);
    require(dup2(file, 900) == 900 && close(file) == 0);
    require_equal(read_some(900, 3), "012");
    const pid_t pid = fork_child(node(), [] {
      require_equal(fcntl(900, F_GETFD), 0);
      require_equal(fcntl(900, F_GETFL) & O_ACCMODE, O_RDONLY);
      require_equal(read_some(900, 100), "3456789");
      return 0;
    });
    require_equal(end_of(pid), exited(0));
    close(900);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, TakesTheContentOfADeletedFileAlong) {
  make_file(path("file"), std::string(100'000, 'x') + "end");
  Outcome outcome = run([this] {
    const int file = open(path("file").c_str(), O_RDONLY | O_CLOEXEC);
    unlink(path("file").c_str());
    const pid_t pid = fork_child(node(), [file] {
      require_equal(fcntl(file, F_GETFD), FD_CLOEXEC);
      require_equal(lseek(file, 100'000, SEEK_SET), 100'000);
      require_equal(read_some(file, 100), "end");
      return 0;
    });
    require_equal(end_of(pid), exited(0));
    close(file);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, AppendsToTheSameFile) {
  Outcome outcome = run([this] {
    const int file = open(path("log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    write_all(file, "home ");
    const pid_t pid = fork_child(node(), [file] {
      require(fcntl(file, F_GETFL) & O_APPEND);
      write_all(file, "away ");
      return 0;
    });
    require_equal(end_of(pid), exited(0));
    write_all(file, "home");
    require_equal(read_file(path("log")), "home away home");
    close(file);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, KeepsDescriptorsThatShareAnOffsetTogether) {
  make_file(path("file"), "0123456789");
  Outcome outcome = run([this] {
    const int file = open(path("file").c_str(), O_RDONLY);
    const int same = dup(file);
    const int other = open(path("file").c_str(), O_RDONLY);
    const pid_t pid = fork_child(node(), [=] {
      require_equal(read_some(file, 4), "0123");
      require_equal(read_some(same, 2), "45");
      require_equal(read_some(other, 2), "01");
      return 0;
    });
    require_equal(end_of(pid), exited(0));
    for (int fd : {file, same, other}) close(fd);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, OpensDirectoriesAndPlainDevicesAgain) {
  make_file(path("file"), "found");
  Outcome outcome = run([this] {
    const int folder = open(path("").c_str(), O_RDONLY | O_DIRECTORY);
    const int random = open("/dev/urandom", O_RDONLY);
    const int zero = open("/dev/zero", O_RDWR);
    const pid_t pid = fork_child(node(), [=] {
      const int file = openat(folder, "file", O_RDONLY);
      require_equal(read_some(file, 100), "found");
      require_equal(read_some(random, 8).size(), 8U);
      require_equal(read_some(zero, 3), std::string(3, '\0'));
      return 0;
    });
    require_equal(end_of(pid), exited(0));
    for (int fd : {folder, random, zero}) close(fd);
  });
  EXPECT_TRUE(went_well(outcome));
}

// What a program that closed its standard streams opens next has their numbers.
TEST_P(AFork, TakesWhatIsNoStreamAtAStreamsNumber) {
  make_file(path("file"), "0123456789");
  Outcome outcome = run([this] {
    const int file = open(path("file").c_str(), O_RDONLY);
    require(dup2(file, 0) == 0 && dup2(file, 1) == 1 && close(file) == 0);
    const int folder = open(path("").c_str(), O_RDONLY | O_DIRECTORY);
    require(dup2(folder, 2) == 2 && close(folder) == 0);
    require_equal(read_some(1, 3), "012");
    telefork::Options options;
    options.standard_input = telefork::StandardInput::take;
    const pid_t pid = fork_child(
        node(),
        [] {
          require_equal(read_some(1, 2), "34");
          require_equal(read_some(0, 2), "56");  // they are one description
          require_equal(read_some(openat(2, "file", O_RDONLY), 100), "0123456789");
          return 0;
        },
        options);
    require_equal(end_of(pid), exited(0));
    require_equal(read_some(1, 100), "3456789");
  });
  EXPECT_TRUE(went_well(outcome));
}

// With what was not read yet of what the buffer of readdir(3) does not hold.
std::set<std::string> read_names(DIR* folder, int most) {
  std::set<std::string> names;
  for (int i = 0; i < most; ++i) {
    const dirent* entry = readdir(folder);
    if (entry == nullptr) break;
    require(names.insert(entry->d_name).second);
  }
  return names;
}

TEST_P(AFork, KeepsItsPlaceInADirectory) {
  constexpr int kFiles = 2000;  // more than one buffer
  require(mkdir(path("folder").c_str(), 0700) == 0);
  for (int i = 0; i < kFiles; ++i) make_file(path("folder/" + std::to_string(i)));
  Outcome outcome = run([this] {
    DIR* folder = opendir(path("folder").c_str());
    const std::set<std::string> read_here = read_names(folder, 10);
    const pid_t pid = fork_child(node(), [&] {
      const std::set<std::string> rest = read_names(folder, kFiles + 2);
      for (const std::string& name : read_here) require_equal(rest.count(name), 0U);
      require_equal(read_here.size() + rest.size(), kFiles + 2U);
      return 0;
    });
    require_equal(end_of(pid), exited(0));
    closedir(folder);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, KeepsADirectoryThatIsAnotherOneByNow) {
  Outcome outcome = run([this] {
    require(mkdir(path("folder").c_str(), 0700) == 0);
    const int folder = open(path("folder").c_str(), O_RDONLY | O_DIRECTORY);
    require(rmdir(path("folder").c_str()) == 0 && mkdir(path("folder").c_str(), 0700) == 0);
    const pid_t pid = fork_child(node(), [&] {
      struct stat status {};
      require(fstat(folder, &status) == 0 && S_ISDIR(status.st_mode));
      require_equal(status.st_nlink, 0U);
      require(openat(folder, "file", O_CREAT | O_WRONLY, 0600) < 0 && errno == ENOENT);
      return 0;
    });
    require_equal(end_of(pid), exited(0));
    close(folder);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, RefusesAWorkingDirectoryThatIsNotThere) {
  if (geteuid() != 0) GTEST_SKIP() << "needs: root, to mount something over it there";
  require(mkdir(path("over").c_str(), 0700) == 0 && mkdir(path("over/cwd").c_str(), 0700) == 0);
  if (telepad_ > 0) stop_telepad(SIGTERM);
  socket_ = path("telepad.sock");
  ASSERT_NO_FATAL_FAILURE(start_telepad([this] {
    require(unshare(CLONE_NEWNS) == 0);
    require(mount("none", path("over").c_str(), "tmpfs", 0, nullptr) == 0);
  }));
  setenv("TELEFORK_SOCKET", "", 1);  // the agent sees this machine's files
  Outcome outcome = run([this] {
    require(chdir(path("over/cwd").c_str()) == 0);
    const Failure failure = failure_of_fork("unix:" + socket_);
    require_equal(failure.code, TELEFORK_REFUSED);
    require_equal(failure.text, "refused: directory " + path("over/cwd") + ": " + path("over/cwd") +
                                    " there: No such file or directory; make it there, or have "
                                    "the program leave it");
  });
  EXPECT_TRUE(went_well(outcome));
}

std::vector<int> open_what_cannot_travel(const std::string& writable) {
  int pipe_ends[2];
  int sockets[2];
  require(pipe(pipe_ends) == 0);
  require(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
  sigset_t none;
  sigemptyset(&none);
  const int locked = open(writable.c_str(), O_RDWR | O_CREAT, 0600);
  require(flock(locked, LOCK_EX) == 0);
  return {pipe_ends[0],
          pipe_ends[1],
          sockets[0],
          sockets[1],
          epoll_create1(0),
          eventfd(0, 0),
          timerfd_create(CLOCK_MONOTONIC, 0),
          signalfd(-1, &none, 0),
          inotify_init(),
          memfd_create("memory", 0),
          locked,
          open("/dev/ptmx", O_RDWR | O_NOCTTY)};
}

TEST_P(AFork, RefusesAllThatCannotTravelByNameAndAtOnce) {
  Outcome outcome = run([this] {
    const std::vector<int> fds = open_what_cannot_travel(path("locked"));
    const Failure failure = failure_of_fork(node());
    require_equal(failure.code, TELEFORK_REFUSED);
    for (int fd : fds) require_contains(failure.text, "fd " + std::to_string(fd) + " -> ");
    for (int fd : fds) close(fd);
    // The call that follows finds nothing of it.
    require_equal(end_of(fork_child(node(), [] { return 4; })), exited(4));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, LeavesDescriptorsAtHomeWhereToldTo) {
  Outcome outcome = run([this] {
    const std::vector<int> fds = open_what_cannot_travel(path("locked"));
    telefork::Options options;
    options.fds = telefork::Fds::leave_home;
    const pid_t pid = fork_child(
        node(),
        [&] {
          for (int fd : fds) {
            char byte = 0;
            require(fcntl(fd, F_GETFD) >= 0);  // the number is taken
            require(read(fd, &byte, 1) == -1 && errno == EBADF);
            require(write(fd, &byte, 1) == -1 && errno == EBADF);
            require(openat(fd, ".", O_RDONLY) == -1 && errno == ENOTDIR);
            require(fchdir(fd) == -1 && errno == ENOTDIR);
          }
          const int next = open("/dev/null", O_RDONLY);
          for (int fd : fds) require(next != fd);
          return 0;
        },
        options);
    require_equal(end_of(pid), exited(0));
    for (int fd : fds) require(fcntl(fd, F_GETFD) >= 0 && close(fd) == 0);
  });
  EXPECT_TRUE(went_well(outcome));
}

void* share(std::size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  require(memory != MAP_FAILED);
  return memory;
}

TEST_P(AFork, RefusesSharedMemoryByName) {
  Outcome outcome = run([this] {
    void* memory = share(65536);
    std::ostringstream address;
    address << memory;
    const Failure failure = failure_of_fork(node());
    require_equal(failure.code, TELEFORK_REFUSED);
    require_contains(failure.text, address.str());
    munmap(memory, 65536);
    require_equal(end_of(fork_child(node(), [] { return 4; })), exited(4));
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, CopiesSharedMemoryWhereToldTo) {
  Outcome outcome = run([this] {
    char* memory = static_cast<char*>(share(65536));
    std::strcpy(memory, "from home");
    telefork::Options options;
    options.shared = telefork::Shared::copy;
    const pid_t pid = fork_child(
        node(),
        [memory] {
          require_equal(std::string(memory), "from home");
          std::strcpy(memory, "from there");
          // It is shared memory still: with the child's own children.
          const pid_t own = ::fork();
          if (own == 0) {
            memory[0] = 'F';
            _exit(0);
          }
          require_equal(end_of(own), exited(0));
          require_equal(std::string(memory), "From there");
          return 0;
        },
        options);
    require_equal(end_of(pid), exited(0));
    require_equal(std::string(memory), "from home");
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, CopiesMemoryThatOnlyOthersMayWriteToWhereToldTo) {
  Outcome outcome = run([this] {
    const int id = shmget(IPC_PRIVATE, 8192, 0600);
    char* writing = static_cast<char*>(shmat(id, nullptr, 0));
    const char* reading = static_cast<char*>(shmat(id, nullptr, SHM_RDONLY));
    require(shmctl(id, IPC_RMID, nullptr) == 0);
    std::strcpy(writing + 5000, "from home");
    require(shmdt(writing) == 0);
    telefork::Options options;
    options.shared = telefork::Shared::copy;
    const pid_t pid = fork_child(
        node(),
        [reading] {
          require_equal(std::string(reading + 5000), "from home");
          return 0;
        },
        options);
    require_equal(end_of(pid), exited(0));
    require(shmdt(reading) == 0);
  });
  EXPECT_TRUE(went_well(outcome));
}

// Nobody can write to it any more: to open it takes root, as the descriptor may be closed.
TEST_P(AFork, TakesSealedMemoryAlong) {
  if (geteuid() != 0) GTEST_SKIP() << "needs: root, to look at the seals";
  Outcome outcome = run([this] {
    const int file = memfd_create("sealed", MFD_ALLOW_SEALING);
    write_all(file, "sealed");
    require(fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0);
    void* memory = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, file, 0);
    require(memory != MAP_FAILED);
    close(file);
    const pid_t pid = fork_child(node(), [memory] {
      require_equal(std::string(static_cast<char*>(memory)), "sealed");
      return 0;
    });
    require_equal(end_of(pid), exited(0));
    munmap(memory, 4096);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, WritesToTheSameFileThroughASharedMapping) {
  make_file(path("file"), std::string(8192, '.'));
  Outcome outcome = run([this] {
    const int file = open(path("file").c_str(), O_RDWR);
    void* address = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    char* memory = static_cast<char*>(address);
    close(file);
    const pid_t pid = fork_child(node(), [memory] {
      memory[5000] = 'x';
      return 0;
    });
    require_equal(end_of(pid), exited(0));
    require_equal(memory[5000], 'x');
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(AFork, LeavesNothingOfTeleforksThatCouldNotMove) {
  const std::string telepad = telepad_program();
  const std::string telefork = telepad.substr(0, telepad.rfind('/')) + "/telefork";
  if (access(telefork.c_str(), X_OK) != 0) GTEST_SKIP() << "needs: telefork beside telepad";
  const Program program = start([this] {
    require_equal(end_of(fork_child(node(), [] { return 0; })), exited(0));
    write_all(1, "x");
    for (;;) pause();
  });
  char byte = 0;
  EXPECT_EQ(read(program.out, &byte, 1), 1);
  EXPECT_EQ(std::system((telefork + " check " + std::to_string(program.pid)).c_str()), 0);
  kill(program.pid, SIGKILL);
  EXPECT_EQ(finish(program).end, killed(SIGKILL));
}

}  // namespace
}  // namespace fork_test
