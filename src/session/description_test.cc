#include "session/description.h"

#include <string>

#include <gtest/gtest.h>
#include <unistd.h>

namespace telefork::session {
namespace {

TEST(Description, IsTheArgumentsWhereTheyAreShort) {
  EXPECT_EQ(describe_command({"sh", "-c", "echo up"}), "sh -c echo up");
}

TEST(Description, EndsInDotsWhereTheyAreLong) {
  std::string text = describe_command({"program", std::string(3'000'000, 'a')});
  EXPECT_EQ(text, "program " + std::string(kMaxDescription - 8 - 3, 'a') + "...");
}

TEST(Description, OfAProcessIsAsShort) {
  EXPECT_LE(describe_command(::getpid()).size(), kMaxDescription);
}

TEST(Shorten, CutsNoCharacterInTwo) {
  const std::string smile = "\xf0\x9f\x98\x80";
  EXPECT_EQ(shorten("ab" + smile, 6), "ab" + smile);
  EXPECT_EQ(shorten("ab" + smile + "cdef", 9), "ab" + smile + "...");
  for (std::size_t size : {5u, 6u, 7u, 8u}) {
    EXPECT_EQ(shorten("ab" + smile + "cdef", size), "ab...") << size;
  }
}

TEST(Shorten, CutsAnywhereInWhatIsNoText) {
  EXPECT_EQ(shorten(std::string(20, '\x80'), 10), std::string(7, '\x80') + "...");
  EXPECT_EQ(shorten(std::string(20, '\x80'), 3), "...");
}

}  // namespace
}  // namespace telefork::session
