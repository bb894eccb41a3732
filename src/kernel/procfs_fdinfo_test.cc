#include "kernel/procfs_fdinfo.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/testing_error.h"

namespace telefork::kernel {
namespace {

FdInfo with(std::vector<std::string> details) {
  FdInfo info;
  info.details = std::move(details);
  return info;
}

TEST(FdInfoDetails, OfAnEventfd) {
  EventfdInfo info = parse_eventfd(
      with({"eventfd-count:               2a", "eventfd-id: 1", "eventfd-semaphore: 1"}));
  EXPECT_EQ(info.count, 42u);
  EXPECT_EQ(info.semaphore, true);
  EXPECT_EQ(parse_eventfd(with({"eventfd-count: 0"})).semaphore, std::nullopt);
}

TEST(FdInfoDetails, OfATimerfd) {
  TimerfdInfo info = parse_timerfd(with({"clockid: 7", "ticks: 3", "settime flags: 03",
                                         "it_value: (1, 20)", "it_interval: (0, 999999999)"}));
  EXPECT_EQ(info.clock, 7);
  EXPECT_EQ(info.expirations, 3u);
  EXPECT_EQ(info.flags, 3u);
  EXPECT_EQ(info.remaining_ns, 1'000'000'020);
  EXPECT_EQ(info.interval_ns, 999'999'999);
}

TEST(FdInfoDetails, OfASignalfd) {
  EXPECT_EQ(parse_signalfd(with({"sigmask:\t0000000000000a00"})), 0xa00u);
}

TEST(FdInfoDetails, OfAnEpoll) {
  auto targets = parse_epoll(
      with({"tfd:       12 events: 90000019 data: ffffffffffffffff  pos:0 ino:40e sdev:10",
            "tfd:        5 events: c0000000 data:                7 "}));
  ASSERT_EQ(targets.size(), 2u);
  EXPECT_EQ(targets[0].fd, 12);
  EXPECT_EQ(targets[0].events, 0x90000019u);
  EXPECT_EQ(targets[0].data, UINT64_MAX);
  EXPECT_EQ(targets[1].events, 0xc0000000u);
}

TEST(FdInfoDetails, OfAnInotify) {
  auto targets = parse_inotify(
      with({"inotify wd:5 ino:64007 sdev:fe00000 mask:22 ignored_mask:0 fhandle-bytes:8 "
            "fhandle-type:1 f_handle:074006001fa85061",
            "inotify wd:1 ino:3c51a sdev:10 mask:84000100 ignored_mask:0 "}));
  ASSERT_EQ(targets.size(), 2u);
  EXPECT_EQ(targets[0].number, 5);
  EXPECT_EQ(targets[0].inode, 0x64007u);
  EXPECT_EQ(targets[0].device, 0xfe00000u);
  EXPECT_EQ(targets[0].mask, 0x22u);
  EXPECT_EQ(targets[0].handle_type, 1);
  ASSERT_EQ(targets[0].handle.size(), 8u);
  EXPECT_EQ(targets[0].handle[1], std::byte{0x40});
  EXPECT_EQ(targets[1].mask, 0x84000100u);
  EXPECT_TRUE(targets[1].handle.empty());
}

TEST(FdInfoDetails, OfAPidfd) {
  EXPECT_EQ(parse_pidfd(with({"Pid:\t4711", "NSpid:\t4711"})), 4711);
  EXPECT_EQ(parse_pidfd(with({"Pid:\t-1"})), -1);
}

TEST(FdInfoDetails, OfAUnixSocket) {
  EXPECT_EQ(parse_sent_descriptors(with({"scm_fds: 3"})), 3u);
  EXPECT_EQ(parse_sent_descriptors(with({})), 0u);
}

TEST(FdInfoDetails, OfLocks) {
  auto locks = parse_locks(with({"lock:\t1: FLOCK  ADVISORY  WRITE 238 fe:00:10953200 0 EOF",
                                 "lock:\t2: POSIX  ADVISORY  READ 238 fe:00:10953200 3 6",
                                 "lock:\t3: OFDLCK ADVISORY  WRITE -1 fe:00:10953200 100 103",
                                 "lock:\t4: LEASE  ACTIVE    READ 238 fe:00:10953200 0 EOF",
                                 "lock:\t5: LEASE  BREAKING  READ 238 fe:00:10953200 0 EOF",
                                 "lock:\t6: DELEG  ACTIVE    READ 238 fe:00:10953200 0 EOF"}));
  ASSERT_EQ(locks.size(), 6u);
  EXPECT_EQ(locks[0].kind, LockInfo::Kind::kFlock);
  EXPECT_TRUE(locks[0].exclusive);
  EXPECT_EQ(locks[0].length, 0u);
  EXPECT_EQ(locks[1].kind, LockInfo::Kind::kPosix);
  EXPECT_FALSE(locks[1].exclusive);
  EXPECT_EQ(locks[1].start, 3u);
  EXPECT_EQ(locks[1].length, 4u);
  EXPECT_EQ(locks[2].kind, LockInfo::Kind::kDescription);
  EXPECT_EQ(locks[3].kind, LockInfo::Kind::kLease);
  EXPECT_FALSE(locks[3].exclusive);
  EXPECT_EQ(locks[4].kind, LockInfo::Kind::kOther);
  EXPECT_EQ(locks[5].kind, LockInfo::Kind::kOther);
}

TEST(FdInfoDetails, ThatAreNotOfTheirFormatAreRefused) {
  auto refuses = [](auto&& parse) {
    try {
      parse();
      return false;
    } catch (const Error& error) {
      return error.code() == Code::kCorrupt;
    }
  };
  EXPECT_TRUE(refuses([] { parse_eventfd(with({})); }));
  EXPECT_TRUE(refuses([] { parse_eventfd(with({"eventfd-count: x"})); }));
  EXPECT_TRUE(refuses([] { parse_timerfd(with({"clockid: 1", "ticks: 1"})); }));
  EXPECT_TRUE(refuses([] { parse_signalfd(with({"sigmask:\t"})); }));
  EXPECT_TRUE(refuses([] { parse_epoll(with({"tfd: 1 events: 100000000 data: 0"})); }));
  EXPECT_TRUE(refuses([] { parse_epoll(with({"tfd: -1 events: 1 data: 0"})); }));
  EXPECT_TRUE(refuses([] { parse_inotify(with({"inotify wd:5 ino:64007"})); }));
  EXPECT_TRUE(refuses([] {
    parse_inotify(
        with({"inotify wd:5 ino:64007 sdev:0 mask:22 ignored_mask:0 fhandle-bytes:9 "
              "fhandle-type:1 f_handle:074006001fa85061"}));
  }));
  EXPECT_TRUE(refuses([] { parse_locks(with({"lock:\t1: POSIX ADVISORY"})); }));
  EXPECT_TRUE(refuses([] { parse_locks(with({"lock:\t1: POSIX ADVISORY WRITE 1 0:0:0 9 8"})); }));
}

TEST(FdInfoDetails, AreAsThisKernelWritesThem) {
  UniqueFd event(::eventfd(5, EFD_CLOEXEC | EFD_SEMAPHORE));
  EXPECT_EQ(parse_eventfd(read_fdinfo(::getpid(), event.get())).count, 5u);
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event wanted{EPOLLIN | EPOLLET, {.u64 = 0x1234567890}};
  ASSERT_EQ(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, event.get(), &wanted), 0);
  auto targets = parse_epoll(read_fdinfo(::getpid(), epoll.get()));
  ASSERT_EQ(targets.size(), 1u);
  EXPECT_EQ(targets[0].fd, event.get());
  EXPECT_EQ(targets[0].data, 0x1234567890u);
}

}  // namespace
}  // namespace telefork::kernel
