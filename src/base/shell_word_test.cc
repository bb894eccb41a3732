#include "base/shell_word.h"

#include <gtest/gtest.h>

namespace telefork {
namespace {

TEST(AShellWord, IsLeftAsItIsWhereTheShellWouldLeaveIt) {
  for (const char* word : {"/etc/telefork", "~/bin/telepad", "eve@node7:7336", "a_b-c+d,e"}) {
    EXPECT_EQ(quote_for_shell(word), word);
  }
}

TEST(AShellWord, IsQuotedWhereTheShellWouldNot) {
  EXPECT_EQ(quote_for_shell("[::1]:81"), "'[::1]:81'");
  EXPECT_EQ(quote_for_shell("a b"), "'a b'");
  EXPECT_EQ(quote_for_shell("a=b"), "'a=b'");
  EXPECT_EQ(quote_for_shell("it's"), R"('it'"'"'s')");
  EXPECT_EQ(quote_for_shell(""), "''");
}

}  // namespace
}  // namespace telefork
