#include "session/owed_signals.h"

#include <csignal>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace telefork::session {
namespace {

constexpr pid_t kGroup = 70;

OwedSignals::Signal signal_to(pid_t guest_pid, int number, int code = SI_USER) {
  signalfd_siginfo info{};
  info.ssi_signo = static_cast<std::uint32_t>(number);
  info.ssi_code = code;
  return {guest_pid, kGroup, number, false, info};
}

using Sent = std::pair<int, std::vector<pid_t>>;

std::vector<Sent> take(OwedSignals& owed) {
  std::vector<Sent> sent;
  for (const OwedSignals::Batch& batch : owed.take()) {
    sent.push_back({batch.signal.number, {batch.signal.guest_pid}});
    sent.back().second.insert(sent.back().second.end(), batch.others.begin(), batch.others.end());
  }
  EXPECT_TRUE(owed.empty());
  return sent;
}

TEST(OwedSignals, OneToAGroupGoesAsOne) {
  OwedSignals owed;
  EXPECT_TRUE(owed.add(signal_to(71, SIGTERM)));
  EXPECT_FALSE(owed.add(signal_to(0, SIGTERM)));
  EXPECT_FALSE(owed.add(signal_to(72, SIGTERM)));
  EXPECT_EQ(take(owed), (std::vector<Sent>{{SIGTERM, {71, 0, 72}}}));
  EXPECT_TRUE(owed.add(signal_to(71, SIGTERM)));
}

TEST(OwedSignals, AnotherGroupsOrAnotherGoesByItself) {
  OwedSignals owed;
  EXPECT_TRUE(owed.add(signal_to(71, SIGTERM)));
  OwedSignals::Signal of_another = signal_to(72, SIGTERM);
  of_another.group = kGroup + 1;
  EXPECT_TRUE(owed.add(of_another));
  EXPECT_TRUE(owed.add(signal_to(73, SIGINT)));
  OwedSignals::Signal to_group = signal_to(74, SIGTERM);
  to_group.to_group = true;
  EXPECT_TRUE(owed.add(to_group));
  EXPECT_EQ(take(owed),
            (std::vector<Sent>{{SIGTERM, {71}}, {SIGTERM, {72}}, {SIGINT, {73}}, {SIGTERM, {74}}}));
}

TEST(OwedSignals, EachProcessGetsItsOwnInTheirOrder) {
  OwedSignals owed;
  owed.add(signal_to(71, SIGCONT));
  owed.add(signal_to(72, SIGTERM));
  owed.add(signal_to(72, SIGCONT));
  owed.add(signal_to(73, SIGCONT));
  EXPECT_EQ(take(owed), (std::vector<Sent>{{SIGCONT, {71, 73}}, {SIGTERM, {72}}, {SIGCONT, {72}}}));
}

TEST(OwedSignals, TheSameOneTwiceGoesTwice) {
  OwedSignals owed;
  owed.add(signal_to(71, SIGUSR1));
  owed.add(signal_to(72, SIGUSR1));
  owed.add(signal_to(71, SIGUSR1));
  EXPECT_EQ(take(owed), (std::vector<Sent>{{SIGUSR1, {71, 72}}, {SIGUSR1, {71}}}));
}

TEST(OwedSignals, AQueuedValueIsOfOneAlone) {
  OwedSignals owed;
  EXPECT_FALSE(owed.add(signal_to(71, SIGUSR1, SI_QUEUE)));
  EXPECT_FALSE(owed.add(signal_to(72, SIGUSR1, SI_QUEUE)));
  EXPECT_TRUE(owed.add(signal_to(73, SIGUSR1)));
  EXPECT_EQ(take(owed), (std::vector<Sent>{{SIGUSR1, {71}}, {SIGUSR1, {72}}, {SIGUSR1, {73}}}));
}

TEST(OwedSignals, ASignalOfTeleforksOwnIsOfOneAlone) {
  OwedSignals owed;
  EXPECT_FALSE(owed.add({71, 0, SIGSTOP, false, std::nullopt}));
  EXPECT_FALSE(owed.add({72, 0, SIGSTOP, false, std::nullopt}));
  EXPECT_EQ(take(owed), (std::vector<Sent>{{SIGSTOP, {71}}, {SIGSTOP, {72}}}));
}

}  // namespace
}  // namespace telefork::session
