#include "session/hosting.h"

#include <capnp/message.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/testing_error.h"

namespace telefork::session {
namespace {

using kernel::TraceBar;
using testing::EndsWith;
using testing::HasSubstr;

TEST(Hosting, IsRefusedToProcessesWhereAKeeperMayNotTraceItsChildren) {
  for (TraceBar bar : {TraceBar::kNone, TraceBar::kStrangers}) {
    EXPECT_EQ(decide_hosting(bar, true, "").processes, "");
  }
  for (TraceBar bar : {TraceBar::kUsers, TraceBar::kEverybody}) {
    EXPECT_EQ(decide_hosting(bar, true, "").processes, kernel::say_bar(bar));
  }
}

TEST(Hosting, KeepsIdsWhereTheyMayBeChosenOrANamespaceCanBeMade) {
  EXPECT_EQ(decide_hosting(TraceBar::kNone, true, "switched off").ids, "");
  EXPECT_EQ(decide_hosting(TraceBar::kNone, false, "").ids, "");
  EXPECT_EQ(decide_hosting(TraceBar::kNone, false, "switched off").ids, "switched off");
}

// A fixture may not have a message in it, whose destructor may throw.
struct Reply {
  void say(const Hosting& hosting) { say_hosting(hosting, root.initHosting()); }
  std::string why_not_lazy() { return session::why_not_lazy(root.asReader()); }
  void check(bool keeps_ids) { check_hosting(root.asReader(), "node7", keeps_ids); }

  ::capnp::MallocMessageBuilder message;
  protocol::schema::HelloReply::Builder root = message.initRoot<protocol::schema::HelloReply>();
};

TEST(AReply, ThatSaysNothingRefusesNothing) {
  Reply reply;
  EXPECT_NO_THROW(reply.check(true));
  reply.say({});
  EXPECT_NO_THROW(reply.check(true));
}

TEST(AReply, OfANodeWithoutNamespacesRefusesOnlyWhatMustKeepItsIds) {
  Reply reply;
  reply.say({"", "user namespaces are switched off here", ""});
  EXPECT_NO_THROW(reply.check(false));
  Error error = error_of([&] { reply.check(true); });
  EXPECT_EQ(error.code(), Code::kRefused);
  EXPECT_THAT(error.text(), EndsWith("on node7: user namespaces are switched off here"));
}

TEST(AReply, SaysWhyMemoryCannotFollow) {
  Reply reply;
  EXPECT_THAT(reply.why_not_lazy(), HasSubstr("older"));
  reply.root.initFeatures(1).set(0, std::string(protocol::kFeatureLazy));
  EXPECT_EQ(reply.why_not_lazy(), "");
  reply.say({"", "", "only root may"});
  EXPECT_EQ(reply.why_not_lazy(), "only root may");
}

TEST(AReply, SaysWhyMemoryCannotFollowSeveralProcesses) {
  Reply reply;
  reply.root.initFeatures(1).set(0, std::string(protocol::kFeatureLazy));
  EXPECT_THAT(why_not_lazy_trees(reply.root.asReader()), HasSubstr("older"));
  reply.root.initFeatures(1).set(0, std::string(protocol::kFeatureLazyTrees));
  EXPECT_EQ(why_not_lazy_trees(reply.root.asReader()), "");
}

TEST(AReply, OfANodeThatMayNotTraceRefusesEveryProcess) {
  Reply reply;
  reply.say({"Yama lets only root trace", "", ""});
  Error error = error_of([&] { reply.check(false); });
  EXPECT_EQ(error.code(), Code::kRefused);
  EXPECT_THAT(error.text(), EndsWith("node7: Yama lets only root trace"));
}

}  // namespace
}  // namespace telefork::session
