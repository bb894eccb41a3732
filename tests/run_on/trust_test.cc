// A program that has called a node by key, whose key is then trusted no more: the session that
// waits for its next call is of no use any more.
#include <fstream>

#include <fcntl.h>
#include <unistd.h>

#include "calls.h"

namespace fork_test {
namespace {

class ACallByKey : public AFork {
 protected:
  std::string keys() const { return path("keys/trusted_keys"); }
  std::string own_key() const {
    std::ifstream file(keys());
    std::string key;
    file >> key;
    return key;
  }
  std::string serving() const { return " --keys " + path("keys"); }
  // Opened ahead: nothing runs in it.
  void await_sessions(std::size_t count) const {
    while (list_keepers(telepad_).size() != count) usleep(1000);
  }
  void expect_refused(const std::string& why) const {
    const std::string error = error_of_call(node(), [] { _exit(1); });
    require(error.find(why) != std::string::npos);
    require_equal(int{telefork_error_code()}, int{TELEFORK_UNAUTHORISED});
    require(telefork_fork(node().c_str()) == -1);
    require_equal(int{telefork_error_code()}, int{TELEFORK_UNAUTHORISED});
  }
};

TEST_P(ACallByKey, IsRefusedWhenTheNodeDoesNotTrustItAnyMore) {
  Outcome outcome = run([this] {
    const std::string key = own_key();
    call_on(node(), [] {});
    await_sessions(1);
    telefork("trust --remove " + key + serving());
    await_sessions(0);
    expect_refused("does not trust the key " + key);
    telefork("trust " + key + serving() + (geteuid() == 0 ? " --as root" : ""));
    require_equal(call_on(node(), [] { return 7; }), 7);
  });
  EXPECT_TRUE(went_well(outcome));
}

// Until the file is closed nobody is told that it has changed.
TEST_P(ACallByKey, IsRefusedWhenTheNodeHasNotHeardYetThatItsKeysHaveChanged) {
  Outcome outcome = run([this] {
    const std::string key = own_key();
    call_on(node(), [] {});
    await_sessions(1);
    const int file = open(keys().c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
    require(file >= 0);
    telefork::Options options;
    options.fds = telefork::Fds::leave_home;
    const std::string error = error_of_call(
        node(), [] { _exit(1); }, options);
    require(error.find("does not trust the key " + key) != std::string::npos);
    require_equal(int{telefork_error_code()}, int{TELEFORK_UNAUTHORISED});
    close(file);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACallByKey, IsRefusedWhenTheNodeIsNotTrustedHereAnyMore) {
  Outcome outcome = run([this] {
    call_on(node(), [] {});
    await_sessions(1);
    telefork("trust --remove " + node());
    expect_refused("its key is not trusted yet");
  });
  EXPECT_TRUE(went_well(outcome));
}

INSTANTIATE_TEST_SUITE_P(With, ACallByKey, testing::Values("tls"), name_of_node);

}  // namespace
}  // namespace fork_test
