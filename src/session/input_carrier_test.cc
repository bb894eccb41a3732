#include "session/input_carrier.h"

#include <csignal>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <unistd.h>

namespace telefork::session {
namespace {

void write_text(const UniqueFd& fd, std::string_view text) {
  ASSERT_EQ(::write(fd.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

std::string read_to_the_end(const UniqueFd& fd) {
  std::string all;
  char buffer[4096];
  for (ssize_t n; (n = ::read(fd.get(), buffer, sizeof(buffer))) > 0;) {
    all.append(buffer, static_cast<std::size_t>(n));
  }
  return all;
}

TEST(InputCarrier, GivesWhatWasUnreadAndThenWhatComes) {
  auto [source, user] = make_pipe();
  auto [program, sink] = make_pipe();
  const std::string first(200'000, 'x');
  std::jthread carrying([&, from = std::move(source), to = std::move(sink)]() mutable {
    carry_input(std::move(from), std::as_bytes(std::span(first)), std::move(to), {});
  });
  write_text(user, "behind it");
  user.reset();
  EXPECT_EQ(read_to_the_end(program), first + "behind it");
}

TEST(InputCarrier, EndsBehindTheUnreadWhereNothingFollows) {
  auto [program, sink] = make_pipe();
  const std::string first = "all";
  carry_input({}, std::as_bytes(std::span(first)), std::move(sink), {});
  EXPECT_EQ(read_to_the_end(program), first);
}

TEST(InputCarrier, EndsWhenNobodyReadsAnyMore) {
  ::signal(SIGPIPE, SIG_IGN);
  auto [source, user] = make_pipe();
  auto [program, sink] = make_pipe();
  program.reset();
  carry_input(source.duplicate(), {}, std::move(sink), {});
}

TEST(InputCarrier, ReadsNothingWhileItMayNot) {
  ::signal(SIGPIPE, SIG_IGN);
  auto [source, user] = make_pipe();
  auto [program, sink] = make_pipe();
  write_text(user, "not for it");
  int asked = 0;
  carry_input(source.duplicate(), {}, std::move(sink), [&, reader = &program] {
    if (++asked == 2) reader->reset();
    return false;
  });
  char buffer[16];
  EXPECT_EQ(::read(source.get(), buffer, sizeof(buffer)), 10);
}

}  // namespace
}  // namespace telefork::session
