#include "kernel/procfs.h"

#include <csignal>
#include <cstring>
#include <ctime>
#include <random>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/auxvec.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "kernel/test_child.h"

namespace telefork::kernel {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

template <class F>
Code failure(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.code();
  }
  return Code::kUsage;  // none of the codes that these tests expect
}

pid_t pid_that_has_ended() {
  TestChild child([] {});
  return child.pid();
}

constexpr std::string_view kStat =
    "4711 (a) S 2 (x)) R 1 4711 4700 34816 -1 4194304 100 0 0 0 5 6 0 0 20 -5 3 0 70822 3133440 "
    "390 "
    "18446744073709551615 4096 8192 140731507365072 0 0 0 0 0 0 0 0 0 17 0 9 1 0 0 0 12288 16384 "
    "20480 24576 28672 32768 36864 256\n";

TEST(ParseMemoryInfo, FindsWhatThereIsAndWhatIsLeft) {
  const MemoryInfo info = parse_memory_info(
      "MemTotal:       16384256 kB\nMemFree:          120000 kB\nMemAvailable:    8000123 kB\n"
      "HugePages_Total:       0\n");
  EXPECT_EQ(info.total_kb, 16384256U);
  EXPECT_EQ(info.available_kb, 8000123U);
  EXPECT_GT(read_memory_info().total_kb, read_memory_info().available_kb);
}

TEST(ParseStat, TakesANameWithParenthesesAndSpaces) {
  Stat stat = parse_stat(kStat);
  EXPECT_EQ(stat.pid, 4711);
  EXPECT_EQ(stat.comm, "a) S 2 (x)");
  EXPECT_EQ(stat.state, 'R');
  EXPECT_EQ(stat.ppid, 1);
}

TEST(ParseStat, FindsEachFieldAtItsNumber) {
  Stat stat = parse_stat(kStat);
  EXPECT_EQ(stat.pgrp, 4711);
  EXPECT_EQ(stat.session, 4700);
  EXPECT_EQ(stat.tty_nr, 34816);
  EXPECT_EQ(stat.tpgid, -1);
  EXPECT_EQ(stat.flags, 4194304u);
  EXPECT_EQ(stat.user_ticks, 5u);
  EXPECT_EQ(stat.nice, -5);
  EXPECT_EQ(stat.num_threads, 3);
  EXPECT_EQ(stat.start_time, 70822u);
  EXPECT_EQ(stat.start_code, RemotePtr(4096));
  EXPECT_EQ(stat.end_code, RemotePtr(8192));
  EXPECT_EQ(stat.start_stack, RemotePtr(140731507365072));
  EXPECT_EQ(stat.exit_signal, 17);
  EXPECT_EQ(stat.rt_priority, 9u);
  EXPECT_EQ(stat.policy, 1u);
  EXPECT_EQ(stat.start_data, RemotePtr(12288));
  EXPECT_EQ(stat.start_brk, RemotePtr(20480));
  EXPECT_EQ(stat.arg_start, RemotePtr(24576));
  EXPECT_EQ(stat.env_end, RemotePtr(36864));
  EXPECT_EQ(stat.exit_code, 256);
}

TEST(ParseStat, RefusesGarbageAsCorrupt) {
  for (std::string_view text : {"", "1 (a", "1 a) R 1", ")(", "1 (a) R 1 2 3", "x (a) R"})
    EXPECT_EQ(failure([&] { parse_stat(text); }), Code::kCorrupt) << text;
}

TEST(ParseStatus, TakesSignalsIdsAndNamespaces) {
  Status status = parse_status(
      "Name:\ta\\nb\\\\c\nUmask:\t0027\nState:\tS (sleeping)\nTgid:\t10\nPid:\t11\nPPid:\t1\n"
      "TracerPid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t27 4294967294 \nNSpid:\t11\t3\n"
      "Threads:\t2\nSigQ:\t3/95000\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000002\n"
      "SigBlk:\t8000000000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000200\n"
      "CapEff:\t000001fffeffffff\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n"
      "VmRSS:\t    1672 kB\nRssAnon:\t     640 kB\nSomething_new:\twhatever\n");
  EXPECT_EQ(status.name, "a\nb\\c");
  EXPECT_EQ(status.umask, 027u);
  EXPECT_EQ(status.state, 'S');
  EXPECT_EQ(status.tgid, 10);
  EXPECT_EQ(status.pid, 11);
  EXPECT_EQ(status.tracer_pid, 7);
  EXPECT_THAT(status.uids, ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(status.gids, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(status.groups, ElementsAre(27, 4294967294u));
  EXPECT_THAT(status.ns_pids, ElementsAre(11, 3));
  EXPECT_EQ(status.queued_signals, 3u);
  EXPECT_EQ(status.most_signals, 95000u);
  EXPECT_EQ(status.thread_pending, 1u);
  EXPECT_EQ(status.shared_pending, 2u);
  EXPECT_EQ(status.blocked, 1ull << 63);
  EXPECT_EQ(status.cap_effective, 0x1fffeffffffull);
  EXPECT_TRUE(status.no_new_privs);
  EXPECT_EQ(status.seccomp, 2);
  EXPECT_EQ(status.seccomp_filters, 3);
  EXPECT_EQ(status.resident_kb, 1672u);
  EXPECT_EQ(status.anonymous_kb, 640u);
}

TEST(ParseStatus, RefusesGarbageAsCorrupt) {
  for (std::string_view text : {"", "Pid", "Pid:\tx\n", "Pid:\t1\nTgid:\t1\nUid:\t1\t2\n",
                                "Pid:\t1\nTgid:\t1\nSigBlk:\t11111111111111111\n",
                                "Pid:\t1\nTgid:\t1\nGroups:\t99999999999\n"})
    EXPECT_EQ(failure([&] { parse_status(text); }), Code::kCorrupt) << text;
}

TEST(ReadStatus, SeesWhatAChildDidWithItsSignals) {
  TestChild child([] {
    ::signal(SIGUSR1, SIG_IGN);
    ::signal(SIGUSR2, [](int) {});
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    ::raise(SIGTERM);
    ::umask(0137);
  });
  Status status = read_status(child.pid());
  EXPECT_TRUE(status.ignored >> (SIGUSR1 - 1) & 1);
  EXPECT_TRUE(status.caught >> (SIGUSR2 - 1) & 1);
  EXPECT_TRUE(status.blocked >> (SIGTERM - 1) & 1);
  EXPECT_TRUE((status.thread_pending | status.shared_pending) >> (SIGTERM - 1) & 1);
  EXPECT_EQ(status.umask, 0137u);
  EXPECT_EQ(status.ppid, ::getpid());
}

TEST(IsAlive, KnowsLivingZombieAndGone) {
  ProcessId id;
  {
    TestChild child([] {});
    id = identify(child.pid());
    EXPECT_TRUE(is_alive(id));
    EXPECT_FALSE(is_alive({.pid = id.pid, .start_time = id.start_time + 1}));
    child.kill();
    EXPECT_FALSE(is_alive(id));
  }
  EXPECT_FALSE(is_alive(id));
  EXPECT_EQ(failure([&] { identify(id.pid); }), Code::kGone);
}

void* pause_for_ever(void*) {
  for (;;) ::pause();
}

// Ends the calling thread only, as pthread_exit() does.
void end_this_thread(int) { ::syscall(SYS_exit, 0); }

TEST(IsAlive, CountsALeaderThatLeftItsThreadsBehindAsAlive) {
  TestChild child([] {
    ::signal(SIGUSR1, end_this_thread);
    pthread_t thread;
    ::pthread_create(&thread, nullptr, pause_for_ever, nullptr);
  });
  ProcessId id = identify(child.pid());
  EXPECT_EQ(list_threads(child.pid()).size(), 2u);
  for (pid_t tid : list_threads(child.pid())) {
    EXPECT_TRUE(is_thread_of(child.pid(), tid));
    EXPECT_EQ(read_status(tid).tgid, child.pid());
  }
  ::syscall(SYS_tgkill, child.pid(), child.pid(), SIGUSR1);
  while (read_stat(child.pid()).state != 'Z') ::sched_yield();
  EXPECT_TRUE(is_alive(id));
}

TEST(ListChildren, FindsAChild) {
  TestChild child([] {});
  EXPECT_THAT(list_children(::getpid()), Contains(child.pid()));
  EXPECT_THAT(list_children(child.pid()), IsEmpty());
  EXPECT_THAT(list_processes(), Contains(::getpid()));
  EXPECT_EQ(failure([] { list_children(pid_that_has_ended()); }), Code::kGone);
}

TEST(ReadFdInfo, HasPositionFlagsAndDetails) {
  auto [read_end, write_end] = make_pipe();
  UniqueFd file = open_file("/etc/passwd", O_RDONLY);
  ASSERT_EQ(::lseek(file.get(), 17, SEEK_SET), 17);
  FdInfo info = read_fdinfo(::getpid(), file.get());
  struct stat status {};
  ::fstat(file.get(), &status);
  EXPECT_EQ(info.position, 17);
  EXPECT_EQ(info.flags & O_ACCMODE, static_cast<unsigned>(O_RDONLY));
  EXPECT_TRUE(info.flags & O_CLOEXEC);
  EXPECT_EQ(info.inode, status.st_ino);
  auto mount = find_mount(read_mountinfo(::getpid()), info.mount_id);
  ASSERT_TRUE(mount.has_value());
  EXPECT_FALSE(mount->filesystem.empty());
  EXPECT_THAT(list_fds(::getpid()), Contains(file.get()));
  EXPECT_EQ(read_fd_link(::getpid(), file.get()), "/etc/passwd");
  EXPECT_THAT(read_fd_link(::getpid(), read_end.get()), StartsWith("pipe:["));
  UniqueFd event(::eventfd(5, EFD_CLOEXEC));
  EXPECT_THAT(read_fdinfo(::getpid(), event.get()).details, Contains(HasSubstr("eventfd-count")));
}

TEST(ParseFdInfo, RefusesGarbageAsCorrupt) {
  EXPECT_EQ(failure([] { parse_fdinfo(""); }), Code::kCorrupt);
  EXPECT_EQ(failure([] { parse_fdinfo("flags:\t9\n"); }), Code::kCorrupt);
  EXPECT_EQ(failure([] { parse_fdinfo("pos:\tx\nflags:\t0\n"); }), Code::kCorrupt);
}

TEST(ReadFdLink, OfADescriptorThatIsNotOpenIsNotGone) {
  EXPECT_EQ(failure([] { read_fd_link(::getpid(), 999999); }), Code::kFailed);
  EXPECT_EQ(failure([] { read_fd_link(pid_that_has_ended(), 0); }), Code::kGone);
}

TEST(Paths, LeadToTheVeryFiles) {
  struct stat by_path {};
  struct stat by_fd {};
  UniqueFd file = open_file("/etc/passwd", O_RDONLY);
  for (const std::string& path : {fd_open_path(::getpid(), file.get()), self_fd_path(file.get())}) {
    ASSERT_EQ(::stat(path.c_str(), &by_path), 0) << path;
    ::fstat(file.get(), &by_fd);
    EXPECT_EQ(by_path.st_ino, by_fd.st_ino);
  }
  for (const std::string& path :
       {exe_path(::getpid()), cwd_path(::getpid()), root_path(::getpid()), mem_path(::getpid()),
        pagemap_path(::getpid()), ns_path(::getpid(), "net"), proc_folder_path(::getpid())})
    EXPECT_EQ(::access(path.c_str(), F_OK), 0) << path;
  EXPECT_THAT(read_ns_link(::getpid(), "net"), StartsWith("net:["));
  EXPECT_THAT(read_exe_link(::getpid()), HasSubstr("kernel_test"));
  EXPECT_FALSE(read_cwd_link(::getpid()).empty());
  EXPECT_EQ(read_root_link(::getpid()), "/");
}

TEST(ReadAuxv, AgreesWithGetauxval) {
  AuxVector vector = read_auxv(::getpid());
  EXPECT_THAT(vector, Contains(std::pair<std::uint64_t, std::uint64_t>(AT_PAGESZ, 4096)));
  EXPECT_EQ(vector.back().first, static_cast<std::uint64_t>(AT_NULL));
  EXPECT_EQ(failure([] { parse_auxv("123"); }), Code::kCorrupt);
}

TEST(ReadComm, KeepsEveryByteOfTheName) {
  TestChild child([] { ::prctl(PR_SET_NAME, "a) \\n\nb\n"); });
  EXPECT_EQ(read_comm(child.pid(), child.pid()), "a) \\n\nb\n");
  EXPECT_EQ(read_stat(child.pid()).comm, "a) \\n\nb\n");
  EXPECT_EQ(read_status(child.pid()).name, "a) \\n\nb\n");
}

TEST(ParseTimers, TakesEveryKindOfNotification) {
  auto timers = parse_timers(
      "ID: 1\nsignal: 60/00007fff86e452a8\nnotify: signal/pid.2634\nClockID: 0\n"
      "ID: 7\nsignal: 14/0000000000000000\nnotify: signal/tid.2635\nClockID: -6\n"
      "ID: 8\nsignal: 0/(null)\nnotify: none/pid.2634\nClockID: 1\nNew: thing\n");
  ASSERT_EQ(timers.size(), 3u);
  EXPECT_EQ(timers[0].id, 1);
  EXPECT_EQ(timers[0].signal, 60);
  EXPECT_EQ(timers[0].value, 0x7fff86e452a8u);
  EXPECT_FALSE(timers[0].to_thread);
  EXPECT_TRUE(timers[1].to_thread);
  EXPECT_EQ(timers[1].target, 2635);
  EXPECT_EQ(timers[1].clock_id, -6);
  EXPECT_EQ(timers[2].notify, PosixTimer::Notify::kNone);
  for (std::string_view text : {"signal: 1/0\n", "ID: x\n", "ID: 1\nnotify: loud/pid.1\n"})
    EXPECT_EQ(failure([&] { parse_timers(text); }), Code::kCorrupt) << text;
}

TEST(ReadTimers, SeesATimerOfAChild) {
  TestChild child([] {
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGUSR1;
    event.sigev_value.sival_ptr = reinterpret_cast<void*>(0x1234);
    timer_t timer;
    ::timer_create(CLOCK_MONOTONIC, &event, &timer);
  });
  auto timers = read_timers(child.pid());
  ASSERT_EQ(timers.size(), 1u);
  EXPECT_EQ(timers[0].signal, SIGUSR1);
  EXPECT_EQ(timers[0].value, 0x1234u);
  EXPECT_EQ(timers[0].clock_id, CLOCK_MONOTONIC);
  EXPECT_EQ(timers[0].target, child.pid());
}

TEST(ParseSyscall, TellsRunningUserAndSyscallApart) {
  EXPECT_EQ(parse_syscall("running\n").where, SyscallState::Where::kRunning);
  SyscallState user = parse_syscall("-1 0x7ff0 0x401000\n");
  EXPECT_EQ(user.where, SyscallState::Where::kInUser);
  EXPECT_EQ(user.stack_pointer, RemotePtr(0x7ff0));
  SyscallState in = parse_syscall("35 0x1 0x2 0x3 0x4 0x5 0x6 0x7ff0 0x401000\n");
  EXPECT_EQ(in.where, SyscallState::Where::kInSyscall);
  EXPECT_EQ(in.number, 35);
  EXPECT_THAT(in.arguments, ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(in.instruction_pointer, RemotePtr(0x401000));
  for (std::string_view text : {"", "35\n", "35 0x1\n", "-1 7 8\n"})
    EXPECT_EQ(failure([&] { parse_syscall(text); }), Code::kCorrupt) << text;
}

TEST(TimensOffsets, AreReadAndParsed) {
  auto offsets = parse_timens_offsets("monotonic      -864000    5000\nboottime   7     0\n");
  EXPECT_EQ(offsets.monotonic, (TimeOffset{-864000, 5000}));
  EXPECT_EQ(offsets.boottime, (TimeOffset{7, 0}));
  EXPECT_NO_THROW(read_timens_offsets(::getpid()));
  EXPECT_EQ(failure([] { parse_timens_offsets("monotonic 0\n"); }), Code::kCorrupt);
}

TEST(TimensOffsets, AreFormattedAsTheKernelTakesThem) {
  TimeNamespaceOffsets offsets;
  offsets.monotonic = TimeOffset::of_nanoseconds(-1'500'000'000);
  offsets.boottime = TimeOffset::of_nanoseconds(7'000'000'001);
  EXPECT_EQ(offsets.monotonic, (TimeOffset{-2, 500'000'000}));
  EXPECT_EQ(offsets.monotonic.total_nanoseconds(), -1'500'000'000);
  std::string text = format_timens_offsets(offsets);
  EXPECT_EQ(text, "monotonic -2 500000000\nboottime 7 1\n");
  EXPECT_EQ(parse_timens_offsets(text), offsets);
}

TEST(Settings, OfAProcessAreWrittenAndReadBack) {
  TestChild child([] {});
  write_oom_score_adj(child.pid(), 123);
  EXPECT_EQ(read_oom_score_adj(child.pid()), 123);
  write_coredump_filter(child.pid(), 0x23);
  EXPECT_EQ(read_coredump_filter(child.pid()), 0x23u);
  EXPECT_GT(read_timerslack_ns(::getpid()), 0u);
  EXPECT_EQ(read_personality(child.pid()) & 0xff, 0u);
  EXPECT_EQ(failure([] { write_oom_score_adj(pid_that_has_ended(), 0); }), Code::kGone);
}

TEST(Strings, OfAProcessAreItsOwn) {
  EXPECT_THAT(read_cmdline(::getpid()), HasSubstr("kernel_test"));
  EXPECT_FALSE(read_environ_block(::getpid()).empty());
}

TEST(ParseMountInfo, UndoesEscapesAndSkipsPropagation) {
  auto mounts = parse_mountinfo(
      "36 35 98:0 /a\\040b /mnt\\0112 rw,noatime master:1 shared:7 - nfs4 host:/x\\134y rw,v=4\n"
      "37 36 0:9 / /c rw - tmpfs  rw\n");
  ASSERT_EQ(mounts.size(), 2u);
  EXPECT_EQ(mounts[0].root, "/a b");
  EXPECT_EQ(mounts[0].mount_point, "/mnt\t2");
  EXPECT_EQ(mounts[0].filesystem, "nfs4");
  EXPECT_EQ(mounts[0].source, "host:/x\\y");
  EXPECT_EQ(mounts[0].super_options, "rw,v=4");
  EXPECT_EQ(mounts[1].source, "");
  EXPECT_EQ(mounts[1].super_options, "rw");
  EXPECT_FALSE(find_mount(mounts, 5).has_value());
  for (std::string_view text : {"36\n", "36 35 98:0 / /mnt rw\n", "36 35 9 / / rw - a b c\n"})
    EXPECT_EQ(failure([&] { parse_mountinfo(text); }), Code::kCorrupt) << text;
}

TEST(System, AnswersOnThisMachine) {
  EXPECT_EQ(read_boot_id().size(), 36u);
  EXPECT_GE(parse_kernel_version(kernel_release()), (KernelVersion{5, 14}));
  EXPECT_GT(read_pid_max(), 300u);
  EXPECT_GT(read_max_map_count(), 1000u);
  EXPECT_NO_THROW(read_mmap_min_addr());
  EXPECT_NO_THROW(read_overcommit());
  EXPECT_NO_THROW(read_huge_page_policy());
  EXPECT_NO_THROW(read_max_user_namespaces());
  EXPECT_NO_THROW(read_unprivileged_userns_clone());
  EXPECT_NO_THROW(read_apparmor_restricts_userns());
  EXPECT_NO_THROW(read_unprivileged_userfaultfd_allowed());
  EXPECT_GE(read_ptrace_scope(), 0);
}

TEST(System, ParsesVersionsAndPolicies) {
  EXPECT_EQ(parse_kernel_version("6.18.44-amd64"), (KernelVersion{6, 18}));
  EXPECT_LT((KernelVersion{5, 14}), (KernelVersion{6, 1}));
  EXPECT_EQ(failure([] { parse_kernel_version("six"); }), Code::kCorrupt);
  EXPECT_EQ(parse_huge_page_policy("always [madvise] never\n"), HugePagePolicy::kMadvise);
  EXPECT_EQ(failure([] { parse_huge_page_policy("maybe\n"); }), Code::kCorrupt);
}

TEST(System, HasHugePagesForWhoAsksThatNobodyElseHasReserved) {
  EXPECT_EQ((HugePagePool{10, 4, 0, 0}).available(), 6u);
  EXPECT_EQ((HugePagePool{10, 4, 5, 2}).available(), 9u);
  // Fewer may be made than were made before.
  EXPECT_EQ((HugePagePool{10, 4, 2, 5}).available(), 6u);
  EXPECT_EQ((HugePagePool{1, 4, 2, 0}).available(), 0u);
  EXPECT_FALSE(try_read_huge_page_pool(13));
}

// Every parser, every kind of damage: an Error kCorrupt or a result, nothing else.
TEST(EveryParser, SurvivesRandomDamage) {
  const std::vector<std::pair<std::string, void (*)(std::string_view)>> parsers = {
      {std::string(kStat), [](std::string_view text) { parse_stat(text); }},
      {"Name:\ta\nPid:\t1\nTgid:\t1\nUid:\t1\t2\t3\t4\nSigBlk:\t00ff\nNSpid:\t1\t2\nVmRSS:\t1 kB\n",
       [](std::string_view text) { parse_status(text); }},
      {"pos:\t0\nflags:\t02100\nmnt_id:\t23\nino:\t3\neventfd-count: 5\n",
       [](std::string_view text) { parse_fdinfo(text); }},
      {"ID: 1\nsignal: 60/00007f\nnotify: signal/pid.26\nClockID: 0\n",
       [](std::string_view text) { parse_timers(text); }},
      {"35 0x1 0x2 0x3 0x4 0x5 0x6 0x7ff0 0x401000\n",
       [](std::string_view text) { parse_syscall(text); }},
      {"monotonic 1 2\nboottime 3 4\n", [](std::string_view text) { parse_timens_offsets(text); }},
      {"36 35 98:0 / /m rw shared:7 - nfs4 host:/x rw\n",
       [](std::string_view text) { parse_mountinfo(text); }},
  };
  unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 30000; ++round) {
    const auto& parser = parsers[random() % parsers.size()];
    std::string text = parser.first;
    text[random() % text.size()] = static_cast<char>(random());
    text.resize(random() % (text.size() + 1));
    Code code = failure([&] { parser.second(text); });
    EXPECT_TRUE(code == Code::kUsage || code == Code::kCorrupt) << text;
  }
}

}  // namespace
}  // namespace telefork::kernel
