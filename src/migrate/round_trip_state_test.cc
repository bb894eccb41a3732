// What a process has once, each set to what nobody has by default: whatever were lost on the way
// would be seen by the victim, or by the comparison of two captures.
#include <linux/securebits.h>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/membarrier.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/abi.h"
#include "kernel/procfs_state.h"
#include "kernel/procfs_task.h"
#include "migrate/round_trip.h"

namespace telefork::migrate {
namespace {

class RoundTripOfState : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_WITHOUT_PIDS(); }
};

TEST_F(RoundTripOfState, StaysUndumpable) {
  expect_survives([](Self& self) {
    VERIFY(::prctl(PR_SET_DUMPABLE, 0) == 0);
    self.travel();
    VERIFY(::prctl(PR_GET_DUMPABLE) == 0);
  });
}

TEST_F(RoundTripOfState, KeepsItsPersonality) {
  expect_survives([](Self& self) {
    constexpr unsigned long kWanted = ADDR_NO_RANDOMIZE | STICKY_TIMEOUTS;
    VERIFY(::personality(kWanted) >= 0);
    self.travel();
    VERIFY(::personality(0xffffffff) == static_cast<int>(kWanted));
  });
}

TEST_F(RoundTripOfState, StaysRegisteredForMembarrier) {
  constexpr int kGet = kernel::kMembarrierGetRegistrations;
  if (::syscall(SYS_membarrier, kGet, 0, 0) < 0) GTEST_SKIP() << "needs: Linux 6.3";
  expect_survives([](Self& self) {
    constexpr int kWanted =
        MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED | MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED;
    VERIFY(::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);
    VERIFY(::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0);
    self.travel();
    VERIFY(::syscall(SYS_membarrier, kGet, 0, 0) == kWanted);
    VERIFY(::syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0);
  });
}

TEST_F(RoundTripOfState, KeepsItsPagesMergeable) {
  if (::prctl(kernel::kPrGetMemoryMerge, 0, 0, 0, 0) < 0) GTEST_SKIP() << "needs: ksm";
  expect_survives([](Self& self) {
    VERIFY(::prctl(kernel::kPrSetMemoryMerge, 1, 0, 0, 0) == 0);
    self.travel();
    VERIFY(::prctl(kernel::kPrGetMemoryMerge, 0, 0, 0, 0) == 1);
  });
}

TEST_F(RoundTripOfState, KeepsNoNewPrivileges) {
  expect_survives([](Self& self) {
    VERIFY(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    self.travel();
    VERIFY(::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
  });
}

TEST_F(RoundTripOfState, KeepsWhatTheOomKillerThinksOfIt) {
  expect_survives([](Self& self) {
    kernel::write_oom_score_adj(::getpid(), 321);
    self.travel();
    VERIFY(kernel::read_oom_score_adj(::getpid()) == 321);
  });
}

TEST_F(RoundTripOfState, KeepsWhatItsCoreWouldHold) {
  expect_survives([](Self& self) {
    kernel::write_coredump_filter(::getpid(), 0x7f);
    self.travel();
    VERIFY(kernel::read_coredump_filter(::getpid()) == 0x7f);
  });
}

TEST_F(RoundTripOfState, KeepsItsDirectory) {
  expect_survives([](Self& self) {
    // Its name is no text that anybody should have to understand.
    constexpr char kFolder[] = "/tmp/telefork test\n\xff folder";
    VERIFY(::mkdir(kFolder, 0700) == 0 && ::chdir(kFolder) == 0);
    self.travel();
    char buffer[4096];
    VERIFY(::getcwd(buffer, sizeof(buffer)) != nullptr && std::strcmp(buffer, kFolder) == 0);
    VERIFY(::rmdir(kFolder) == 0);
  });
}

TEST_F(RoundTripOfState, KeepsItsLimits) {
  expect_survives([](Self& self) {
    constexpr rlimit kFiles{123, 456};
    constexpr rlimit kStack{rlim_t{5} << 20, RLIM_INFINITY};
    constexpr rlimit kCore{0, 4711};
    VERIFY(::setrlimit(RLIMIT_NOFILE, &kFiles) == 0);
    VERIFY(::setrlimit(RLIMIT_STACK, &kStack) == 0);
    VERIFY(::setrlimit(RLIMIT_CORE, &kCore) == 0);
    self.travel();
    auto has = [](auto resource, const rlimit& wanted) {
      rlimit limit{};
      return ::getrlimit(resource, &limit) == 0 && limit.rlim_cur == wanted.rlim_cur &&
             limit.rlim_max == wanted.rlim_max;
    };
    VERIFY(has(RLIMIT_NOFILE, kFiles));
    VERIFY(has(RLIMIT_STACK, kStack));
    VERIFY(has(RLIMIT_CORE, kCore));
  });
}

TEST_F(RoundTripOfState, StaysWithoutHugePages) {
  expect_survives([](Self& self) {
    VERIFY(::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
    self.travel();
    VERIFY(::prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
  });
}

TEST_F(RoundTripOfState, StaysASubreaper) {
  expect_survives([](Self& self) {
    VERIFY(::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    self.travel();
    int subreaper = 0;
    VERIFY(::prctl(PR_GET_CHILD_SUBREAPER, &subreaper) == 0 && subreaper == 1);
  });
}

TEST_F(RoundTripOfState, KeepsKeepcaps) {
  expect_survives([](Self& self) {
    VERIFY(::prctl(PR_SET_KEEPCAPS, 1) == 0);
    self.travel();
    VERIFY(::prctl(PR_GET_KEEPCAPS) == 1);
  });
}

class RoundTripOfPrivileges : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_PIDS();
    if (::geteuid() != 0) GTEST_SKIP() << "needs: root";
  }
};

TEST_F(RoundTripOfPrivileges, KeepsItsSecurebits) {
  expect_survives([](Self& self) {
    constexpr int kWanted =
        SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED | SECBIT_NO_SETUID_FIXUP;
    VERIFY(::prctl(PR_SET_SECUREBITS, kWanted) == 0);
    self.travel();
    VERIFY(::prctl(PR_GET_SECUREBITS) == kWanted);
  });
}

TEST_F(RoundTripOfPrivileges, StaysBound) {
  expect_survives([](Self& self) {
    VERIFY(::prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE) == 0);
    VERIFY(::prctl(PR_CAPBSET_DROP, CAP_SYS_RAWIO) == 0);
    self.travel();
    VERIFY(::prctl(PR_CAPBSET_READ, CAP_SYS_MODULE) == 0);
    VERIFY(::prctl(PR_CAPBSET_READ, CAP_SYS_RAWIO) == 0);
    VERIFY(::prctl(PR_CAPBSET_READ, CAP_NET_RAW) == 1);
  });
}

TEST_F(RoundTripOfPrivileges, KeepsItsAmbientCapabilities) {
  expect_survives([](Self& self) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct sets[2] = {};
    VERIFY(::syscall(SYS_capget, &header, sets) == 0);
    sets[0].inheritable |= 1u << CAP_NET_RAW;
    VERIFY(::syscall(SYS_capset, &header, sets) == 0);
    VERIFY(::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0) == 0);
    self.travel();
    VERIFY(::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_RAW, 0, 0) == 1);
  });
}

TEST_F(RoundTripOfPrivileges, StaysWhoItHasBecome) {
  expect_survives([](Self& self) {
    const gid_t groups[] = {7, 77, 777};
    VERIFY(::setgroups(3, groups) == 0);
    VERIFY(::setresgid(1001, 1002, 1003) == 0);
    VERIFY(::setresuid(1004, 1005, 0) == 0);
    self.travel();
    uid_t ids[3];
    VERIFY(::getresgid(&ids[0], &ids[1], &ids[2]) == 0);
    VERIFY(ids[0] == 1001 && ids[1] == 1002 && ids[2] == 1003);
    VERIFY(::getresuid(&ids[0], &ids[1], &ids[2]) == 0);
    VERIFY(ids[0] == 1004 && ids[1] == 1005 && ids[2] == 0);
    gid_t now[8];
    VERIFY(::getgroups(8, now) == 3 && std::memcmp(now, groups, sizeof(groups)) == 0);
  });
}

}  // namespace
}  // namespace telefork::migrate
