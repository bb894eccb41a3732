#include "session/handover.h"

#include <deque>
#include <set>
#include <tuple>

#include <gtest/gtest.h>

#include "base/error.h"

namespace telefork::session {
namespace {

// Both ends and the two queues between them, explored through every order of delivery, with the
// connection cut at any point.
struct World {
  SourceState source = SourceState::kSending;
  DestinationState destination = DestinationState::kReceiving;
  std::deque<int> to_source;       // SourceEvent
  std::deque<int> to_destination;  // DestinationEvent
  bool cut = false;
  bool source_knows_cut = false;
  bool destination_knows_cut = false;
  bool keeper_killed = false;
  bool ran = false;

  auto key() const {
    return std::tuple(source, destination, to_source, to_destination, cut, source_knows_cut,
                      destination_knows_cut, keeper_killed, ran);
  }
};

class Explorer {
 public:
  void explore(const World& world) {
    if (!seen_.insert(world.key()).second) return;
    check(world);
    image_ends(world);
    deliver_to_source(world);
    deliver_to_destination(world);
    guest_ends(world);
    cut(world);
    kill_keeper(world);
    guest_fails(world);
    fence(world);
  }
  std::size_t states() const { return seen_.size(); }

 private:
  static void check(const World& world) {
    bool source_may_go_on = world.source == SourceState::kSending ||
                            world.source == SourceState::kFailed ||
                            world.source == SourceState::kFenced;
    bool runs_there = world.destination == DestinationState::kRunning;
    EXPECT_FALSE(source_may_go_on && runs_there) << "two may run";
    if (world.source == SourceState::kFailed) {
      EXPECT_FALSE(world.ran) << "called failed, and it ran";
    }
  }
  void image_ends(World world) {
    if (world.keeper_killed || world.destination != DestinationState::kReceiving) return;
    world.destination = next_state(world.destination, DestinationEvent::kWhole);
    if (!world.cut) world.to_source.push_back(static_cast<int>(SourceEvent::kReady));
    explore(world);
  }
  void deliver_to_source(World world) {
    SourceEvent event = SourceEvent::kLost;
    if (!world.to_source.empty()) {
      event = static_cast<SourceEvent>(world.to_source.front());
      world.to_source.pop_front();
    } else if (!world.cut || world.source_knows_cut) {
      return;
    } else {
      world.source_knows_cut = true;
    }
    SourceState before = world.source;
    world.source = next_state(world.source, event);
    if (before == SourceState::kSending && world.source == SourceState::kGivenUp && !world.cut) {
      world.to_destination.push_back(static_cast<int>(DestinationEvent::kGo));
    }
    explore(world);
  }
  void deliver_to_destination(World world) {
    if (world.keeper_killed) return;
    DestinationEvent event = DestinationEvent::kLost;
    if (!world.to_destination.empty()) {
      event = static_cast<DestinationEvent>(world.to_destination.front());
      world.to_destination.pop_front();
    } else if (!world.cut || world.destination_knows_cut) {
      return;
    } else {
      world.destination_knows_cut = true;
    }
    world.destination = next_state(world.destination, event);
    if (world.destination == DestinationState::kRunning) {
      world.ran = true;
      if (!world.cut) world.to_source.push_back(static_cast<int>(SourceEvent::kStarted));
    }
    explore(world);
  }
  void guest_ends(World world) {
    if (world.keeper_killed || world.destination != DestinationState::kRunning) return;
    world.destination = next_state(world.destination, DestinationEvent::kEnd);
    if (!world.cut) world.to_source.push_back(static_cast<int>(SourceEvent::kStatus));
    explore(world);
  }
  void cut(World world) {
    if (world.cut) return;
    world.cut = true;
    explore(world);
  }
  // The guest may run on: nobody there has ended it.
  void kill_keeper(World world) {
    world.cut = true;
    world.keeper_killed = true;
    explore(world);
  }
  // The keeper gives up: it ends the guest, says so and is gone.
  void guest_fails(World world) {
    if (world.keeper_killed) return;
    world.destination = next_state(world.destination, DestinationEvent::kAbort);
    if (!world.cut) world.to_source.push_back(static_cast<int>(SourceEvent::kFailure));
    world.cut = true;
    world.keeper_killed = true;
    explore(world);
  }
  // The node ends what is left of keeper and guest, whatever state they are in, and answers.
  void fence(World world) {
    if (world.source != SourceState::kUnknown) return;
    world.keeper_killed = true;
    world.destination = next_state(world.destination, DestinationEvent::kLost);
    world.source = next_state(world.source, SourceEvent::kFence);
    explore(world);
  }

  std::set<decltype(World().key())> seen_;
};

TEST(Handover, NeverLetsTwoRunWhateverTheOrderAndWhereverTheLinkIsCut) {
  Explorer explorer;
  explorer.explore(World{});
  EXPECT_GT(explorer.states(), 30u);
}

TEST(Handover, RefusesAStartThatNobodyGave) {
  EXPECT_THROW(next_state(SourceState::kSending, SourceEvent::kStarted), Error);
  EXPECT_THROW(next_state(DestinationState::kReceiving, DestinationEvent::kGo), Error);
}

TEST(Handover, IsFencedOnlyWhenItWasUnknown) {
  EXPECT_EQ(next_state(SourceState::kUnknown, SourceEvent::kFence), SourceState::kFenced);
  for (SourceState state : {SourceState::kSending, SourceState::kGivenUp, SourceState::kAway}) {
    EXPECT_THROW(next_state(state, SourceEvent::kFence), Error);
  }
}

TEST(Handover, BelievesTheNodeThatItsGuestHasFailed) {
  EXPECT_EQ(next_state(SourceState::kGivenUp, SourceEvent::kFailure), SourceState::kFailed);
  EXPECT_EQ(next_state(SourceState::kAway, SourceEvent::kFailure), SourceState::kFenced);
  EXPECT_EQ(next_state(SourceState::kUnknown, SourceEvent::kFailure), SourceState::kUnknown);
}

TEST(Handover, CallsALossAfterGoUnknown) {
  EXPECT_EQ(next_state(SourceState::kGivenUp, SourceEvent::kLost), SourceState::kUnknown);
  EXPECT_EQ(next_state(SourceState::kSending, SourceEvent::kLost), SourceState::kFailed);
}

}  // namespace
}  // namespace telefork::session
