#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "capture/survey.h"
#include "kernel/test_child.h"

namespace telefork::capture {
namespace {

using kernel::TraceBar;
using testing::Contains;
using testing::Field;
using testing::HasSubstr;
using testing::Not;

Refusals refusals_of(pid_t pid, TraceBar bar, Purpose purpose) {
  SurveyOptions options;
  options.trace_bar = bar;
  options.purpose = purpose;
  Survey survey;
  survey.pid = survey.thread = pid;
  survey.stat = kernel::read_stat(pid);
  survey.status = kernel::read_status(pid);
  survey_policy(options, survey);
  return survey.refusals;
}

auto says(const char* text) { return Contains(Field(&Refusal::why, HasSubstr(text))); }

TEST(SurveyOfYama, RefusesEveryPurposeWhereOnlyRootOrNobodyMayTrace) {
  kernel::TestChild child([] {});
  for (Purpose purpose : {Purpose::kFork, Purpose::kSave, Purpose::kRunOn}) {
    EXPECT_THAT(refusals_of(child.pid(), TraceBar::kUsers, purpose), says("ptrace_scope is 2"));
    EXPECT_THAT(refusals_of(child.pid(), TraceBar::kEverybody, purpose), says("ptrace_scope is 3"));
  }
}

// As this one is: there is no Yama that keeps anybody from it, or it is this process's own child.
TEST(SurveyOfYama, PassesAProcessThatMayReallyBeAttachedTo) {
  kernel::TestChild child([] {});
  for (Purpose purpose : {Purpose::kFork, Purpose::kSave, Purpose::kRunOn}) {
    EXPECT_THAT(refusals_of(child.pid(), TraceBar::kStrangers, purpose), Not(says("Yama")));
  }
}

}  // namespace
}  // namespace telefork::capture
