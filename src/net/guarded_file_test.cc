#include "net/guarded_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "net/testing_folder.h"

namespace telefork::net {
namespace {

using ::testing::HasSubstr;

// To root no file is unreadable: where the tests are root's, each acts as another user.
class AnUnreadableFile : public InTestFolder {
 protected:
  AnUnreadableFile() {
    write("file", "content");
    if (!is_root_) return;
    give("", kSomebody);
    give("/file", kSomebody);
    EXPECT_EQ(::seteuid(kSomebody), 0);
  }
  ~AnUnreadableFile() override {
    if (is_root_) {
      EXPECT_EQ(::seteuid(0), 0);
    }
    ::chmod(folder().c_str(), 0700);
  }

  void give(const std::string& name, uid_t user) const {
    EXPECT_EQ(::chown((folder() + name).c_str(), user, user), 0);
  }
  template <class F>
  void as_root(F&& f) const {
    if (!is_root_) return;
    EXPECT_EQ(::seteuid(0), 0);
    f();
    EXPECT_EQ(::seteuid(kSomebody), 0);
  }
  std::string refusal() const {
    Error error = error_of([&] { read_guarded(path("file")); });
    EXPECT_EQ(error.code(), Code::kUnauthorised) << error.text();
    EXPECT_EQ(error_of([&] { read_guarded_secret(path("file")); }).text(), error.text());
    return error.text();
  }

  static constexpr uid_t kSomebody = 54321;
  static constexpr uid_t kSomebodyElse = 54322;
  const bool is_root_ = ::geteuid() == 0;
};

TEST_F(AnUnreadableFile, IsReadWhereItIsNone) {
  EXPECT_EQ(read_guarded(path("file")), "content");
  ::chmod(folder().c_str(), 0100);  // to be entered, not to be listed
  EXPECT_EQ(read_guarded(path("file")), "content");
}

TEST_F(AnUnreadableFile, OfThisUserIsRefusedWithTheModeThatMendsIt) {
  ::chmod(path("file").c_str(), 0);
  EXPECT_THAT(refusal(), HasSubstr(path("file") + " may not be read by its own user: chmod u+r " +
                                   path("file")));
  ::chmod(folder().c_str(), 0600);
  EXPECT_THAT(refusal(),
              HasSubstr(folder() + " may not be entered by its own user: chmod u+rwx " + folder()));
}

TEST_F(AnUnreadableFile, OfAnotherUserIsRefusedWithTheOwnerThatMendsIt) {
  if (!is_root_) GTEST_SKIP() << "needs: root, to give a file away";
  as_root([&] { give("/file", kSomebodyElse); });
  EXPECT_THAT(refusal(), HasSubstr("belongs to user 54322, and user 54321 may not read it: chown "
                                   "54321 " +
                                   path("file")));
}

TEST_F(AnUnreadableFile, InAFolderOfAnotherUserIsRefusedWithWhatChoosesTheFolder) {
  if (!is_root_) GTEST_SKIP() << "needs: root, to give a folder away";
  as_root([&] {
    give("", kSomebodyElse);
    give("/file", kSomebodyElse);
  });
  EXPECT_THAT(refusal(), HasSubstr("user 54321 may not enter " + folder() + ": have HOME, "));
  as_root([&] { ::chmod(folder().c_str(), 0755); });
  EXPECT_THAT(refusal(), HasSubstr("user 54321 may not read " + path("file") + ": have HOME, "));
}

}  // namespace
}  // namespace telefork::net
