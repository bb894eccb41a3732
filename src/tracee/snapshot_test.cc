#include "tracee/snapshot.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/pidfd.h"
#include "kernel/procfs_task.h"
#include "tracee/freezer.h"
#include "tracee/memory.h"
#include "tracee/testing_tracer_death.h"
#include "tracee/testing_victim.h"

namespace telefork::tracee {
namespace {

std::atomic<long> counter{1};
std::atomic<int> signals_of_children{0};

bool is_told_to_end(int fd) {
  pollfd poll = {fd, POLLIN, 0};
  return ::poll(&poll, 1, 0) == 1;
}

// Its memory changes all the time; one thread waits for whatever child there is, again and again.
int count_and_wait(int stop_fd, int ready_fd) {
  std::signal(SIGCHLD, [](int) { ++signals_of_children; });
  std::atomic<bool> stop{false};
  std::atomic<int> seen{0};
  std::thread waiter([&] {
    while (!stop) {
      int status;
      if (::waitpid(-1, &status, 0) >= 0 || errno != ECHILD) ++seen;
    }
  });
  if (::write(ready_fd, "", 1) != 1) return 9;
  while (!is_told_to_end(stop_fd)) ++counter;
  stop = true;
  waiter.join();
  if (seen != 0) return 1;
  if (signals_of_children != 0) return 2;
  // Not one that is seen only by who asks for it either.
  if (::waitpid(-1, nullptr, __WALL | WNOHANG) >= 0 || errno != ECHILD) return 3;
  return 0;
}

long read_counter(pid_t pid) {
  return read_object<long>(pid, RemotePtr(reinterpret_cast<std::uint64_t>(&counter)));
}

std::size_t count_descriptors(pid_t pid) {
  std::filesystem::directory_iterator begin("/proc/" + std::to_string(pid) + "/fd"), end;
  return static_cast<std::size_t>(std::distance(begin, end));
}

TEST(Snapshot, HasTheMemoryOfThatInstantWhileTheProcessRunsOn) {
  Victim victim(count_and_wait);
  SnapshotId id;
  {
    FrozenProcess frozen = FrozenProcess::freeze(victim.pid(), 0);
    EXPECT_EQ(frozen.threads().size(), 2u);
    Stub stub(frozen.leader(), victim.pid(), {});
    const long then = read_counter(victim.pid());
    Snapshot snapshot(stub);
    stub.remove();
    frozen.thaw();
    while (read_counter(victim.pid()) == then) ::sched_yield();
    EXPECT_EQ(read_counter(snapshot.pid()), then);
    EXPECT_EQ(kernel::read_stat(snapshot.pid()).exit_signal, 0);
    EXPECT_EQ(kernel::read_stat(snapshot.pid()).ppid, victim.pid());
    EXPECT_EQ(count_descriptors(snapshot.pid()), 0u);
    id = snapshot.id();
    snapshot.end();
  }
  EXPECT_EQ(kernel::list_children(victim.pid()), std::vector<pid_t>{id.pid});
  reap_snapshot(victim.pid(), id);
  EXPECT_TRUE(kernel::list_children(victim.pid()).empty());
  EXPECT_EQ(victim.finish(), 0);
}

TEST(Snapshot, IsReapedInTheStubThatMadeIt) {
  Victim victim(count_and_wait);
  {
    FrozenProcess frozen = FrozenProcess::freeze(victim.pid(), 0);
    Stub stub(frozen.leader(), victim.pid(), {});
    Snapshot snapshot(stub);
    snapshot.end();
    reap_snapshot(stub, snapshot.id());
    reap_snapshot(stub, snapshot.id());
  }
  EXPECT_TRUE(kernel::list_children(victim.pid()).empty());
  EXPECT_EQ(victim.finish(), 0);
}

TEST(Snapshot, IsNothingToAProcessThatHasEnded) {
  SnapshotId id;
  {
    Victim victim(count_and_wait);
    FrozenProcess frozen = FrozenProcess::freeze(victim.pid(), 0);
    Stub stub(frozen.leader(), victim.pid(), {});
    Snapshot snapshot(stub);
    id = snapshot.id();
    snapshot.end();
    reap_snapshot(stub, id);
    stub.remove();
    frozen.thaw();
    EXPECT_EQ(victim.finish(), 0);
  }
  reap_snapshot(::getpid(), id);
}

int ignore_ends_of_children(int stop_fd, int ready_fd) {
  std::signal(SIGCHLD, SIG_IGN);
  if (::write(ready_fd, "", 1) != 1) return 9;
  pollfd stop = {stop_fd, POLLIN, 0};
  while (::poll(&stop, 1, -1) != 1) {
  }
  return 0;
}

TEST(Snapshot, LendsPagesOfTheMemoryThatItShares) {
  constexpr std::size_t kSize = 3 * kPageSize;
  alignas(kPageSize) static std::array<std::byte, kSize> area;
  const RemotePtr start(reinterpret_cast<std::uint64_t>(area.data()));
  for (std::size_t i = 0; i < kSize; i += kPageSize) area[i] = static_cast<std::byte>(i >> 12);
  Victim victim(ignore_ends_of_children);
  FrozenProcess frozen = FrozenProcess::freeze(victim.pid(), 0);
  Stub stub(frozen.leader(), victim.pid(), {});
  std::optional<Lending> lending = try_open_lending(stub);
  ASSERT_TRUE(lending);
  Snapshot snapshot(stub, Snapshot::Memory::kShared, &*lending);
  EXPECT_EQ(kernel::read_status(snapshot.pid()).tracer_pid, 0);
  for (int round = 0; round < 3; ++round) {
    ask_to_lend(lending->control.get(), start, kSize);
    std::vector<std::byte> got(kSize);
    for (std::size_t have = 0; have < kSize;) {
      const ssize_t more = ::read(lending->pages.get(), got.data() + have, kSize - have);
      ASSERT_GT(more, 0);
      have += static_cast<std::size_t>(more);
    }
    EXPECT_TRUE(std::equal(got.begin(), got.end(), area.begin()));
  }
  EXPECT_EQ(count_descriptors(snapshot.pid()), 2u);
  // In the order in which it was told.
  const RemotePtr second = start + kPageSize;
  ASSERT_TRUE(try_ask_to_drop(lending->control.get(), second, kPageSize));
  ask_to_lend(lending->control.get(), second, kPageSize);
  std::byte first{1};
  ASSERT_EQ(::read(lending->pages.get(), &first, 1), 1);
  EXPECT_EQ(first, std::byte{0});
  EXPECT_EQ(read_object<std::byte>(snapshot.pid(), second + kPageSize), std::byte{2});
  // What is not there ends it.
  ask_to_lend(lending->control.get(), RemotePtr(), kPageSize);
  snapshot.end();
  EXPECT_TRUE(kernel::list_children(victim.pid()).empty());
  stub.remove();
  frozen.thaw();
  EXPECT_EQ(victim.finish(), 0);
}

constexpr std::size_t kDropPages = 3;
alignas(kPageSize) std::array<std::byte, kDropPages * kPageSize> its_own;

RemotePtr page_of_its_own(std::size_t page) {
  return RemotePtr(reinterpret_cast<std::uint64_t>(its_own.data())) + page * kPageSize;
}

// Of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
constexpr std::uint64_t kExclusive = std::uint64_t{1} << 56;
constexpr std::uint64_t kFrame = (std::uint64_t{1} << 55) - 1;
std::uint64_t page_entry(pid_t pid, std::size_t page) {
  const UniqueFd map = open_file("/proc/" + std::to_string(pid) + "/pagemap", O_RDONLY);
  std::uint64_t entry = 0;
  const auto at = static_cast<off_t>(page_of_its_own(page).value() / kPageSize * sizeof(entry));
  EXPECT_EQ(::pread(map.get(), &entry, sizeof(entry), at), ssize_t{sizeof(entry)});
  return entry;
}

// Writes to its own pages, and to the second of them once more: to that very page, as long as the
// kernel tells which it is.
int write_again(int stop_fd, int ready_fd) {
  for (std::size_t page = 0; page < kDropPages; ++page) its_own[page * kPageSize] = std::byte{7};
  if (::write(ready_fd, "", 1) != 1) return 9;
  pollfd stop = {stop_fd, POLLIN, 0};
  while (::poll(&stop, 1, -1) != 1) {
  }
  const std::uint64_t before = page_entry(::getpid(), 1) & kFrame;
  its_own[kPageSize] = std::byte{8};
  return (page_entry(::getpid(), 1) & kFrame) == before ? 0 : 1;
}

TEST(Snapshot, DropsWhatTheProcessIsToHaveAlone) {
  Victim victim(write_again);
  FrozenProcess frozen = FrozenProcess::freeze(victim.pid(), 0);
  Stub stub(frozen.leader(), victim.pid(), {});
  Snapshot snapshot(stub, Snapshot::Memory::kDroppable);
  stub.remove();
  frozen.thaw();
  const pid_t pid = snapshot.pid();
  EXPECT_TRUE(is_snapshot(pid));
  EXPECT_EQ(kernel::read_status(pid).tracer_pid, ::getpid());
  EXPECT_EQ(page_entry(victim.pid(), 1) & kExclusive, 0U);
  const UniqueFd control = snapshot.take_control();
  ASSERT_TRUE(control);
  ASSERT_TRUE(try_ask_to_drop(control.get(), page_of_its_own(1), kPageSize));
  while ((page_entry(pid, 1) & kPresent) != 0) ::sched_yield();
  EXPECT_NE(page_entry(victim.pid(), 1) & kExclusive, 0U);
  for (const std::size_t page : {std::size_t{0}, std::size_t{2}}) {
    EXPECT_EQ(page_entry(victim.pid(), page) & kExclusive, 0U);
    EXPECT_EQ(read_object<std::byte>(pid, page_of_its_own(page)), std::byte{7});
  }
  EXPECT_EQ(read_object<std::byte>(victim.pid(), page_of_its_own(1)), std::byte{7});
  EXPECT_EQ(count_descriptors(pid), 1u);
  snapshot.end();
  reap_snapshot(victim.pid(), snapshot.id());
  EXPECT_EQ(victim.finish(), 0);
}

TEST(Snapshot, ThatDropsEndsWhenNobodyTellsItAnyMore) {
  Victim victim(count_and_wait);
  FrozenProcess frozen = FrozenProcess::freeze(victim.pid(), 0);
  Stub stub(frozen.leader(), victim.pid(), {});
  Snapshot snapshot(stub, Snapshot::Memory::kDroppable);
  stub.remove();
  frozen.thaw();
  const UniqueFd end = kernel::open_pidfd(snapshot.pid());
  snapshot.take_control().reset();
  pollfd ended = {end.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&ended, 1, -1), 1);
  snapshot.end();
  reap_snapshot(victim.pid(), snapshot.id());
  EXPECT_TRUE(kernel::list_children(victim.pid()).empty());
  EXPECT_EQ(victim.finish(), 0);
}

// Children of the kind that a snapshot is: one has ended, the other lives until it is killed.
int keep_children_without_signal(int stop_fd, int ready_fd) {
  pid_t children[2];
  for (pid_t& child : children) {
    child = static_cast<pid_t>(::syscall(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr));
    if (child == 0 && &child == &children[0]) ::_exit(3);
    while (child == 0) ::pause();
  }
  siginfo_t info{};
  const auto ended = static_cast<id_t>(children[0]);
  if (::waitid(P_PID, ended, &info, WEXITED | WNOWAIT | __WALL) != 0) return 8;
  if (::write(ready_fd, "", 1) != 1) return 9;
  pollfd stop = {stop_fd, POLLIN, 0};
  while (::poll(&stop, 1, -1) != 1) {
  }
  int status = 0;
  if (::waitpid(children[0], &status, __WALL | WNOHANG) != children[0]) return 1;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 3) return 2;
  if (::waitpid(children[1], &status, __WALL | WNOHANG) != 0) return 3;
  ::kill(children[1], SIGKILL);
  if (::waitpid(children[1], &status, __WALL) != children[1]) return 4;
  if (::waitpid(-1, nullptr, __WALL | WNOHANG) >= 0 || errno != ECHILD) return 5;
  return 0;
}

class ASnapshotOf : public testing::TestWithParam<std::tuple<int (*)(int, int), Snapshot::Memory>> {
};

// Of every call by which it acts on them, up to where the process runs on.
TEST_P(ASnapshotOf, EndsWithItsTracerAndIsReapedAsLongAsTheStubIsThere) {
  long calls = 0;
  for (long die_at = 0;; ++die_at) {
    Victim victim(std::get<0>(GetParam()));
    const pid_t tracer = ::fork();
    ASSERT_GE(tracer, 0);
    if (tracer == 0) {
      tracer_death() = {};
      tracer_death().die_at = die_at;
      try {
        FrozenProcess frozen = FrozenProcess::freeze(victim.pid(), 0);
        Stub stub(frozen.leader(), victim.pid(), {});
        Snapshot snapshot(stub, std::get<1>(GetParam()));
        snapshot.end();
        reap_snapshot(stub, snapshot.id());
      } catch (const Error&) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(tracer, &status, 0), tracer);
    EXPECT_EQ(victim.finish(), 0) << "the tracer died before its call " << die_at;
    if (WIFEXITED(status)) {
      EXPECT_EQ(WEXITSTATUS(status), 0);
      calls = die_at;
      break;
    }
  }
  EXPECT_GT(calls, 40);
}

INSTANTIATE_TEST_SUITE_P(
    Snapshot, ASnapshotOf,
    testing::Combine(testing::Values(count_and_wait, keep_children_without_signal),
                     testing::Values(Snapshot::Memory::kCopied, Snapshot::Memory::kDroppable)));

}  // namespace
}  // namespace telefork::tracee
