#include "session/ssh_stream.h"

#include <gtest/gtest.h>

namespace telefork::session {
namespace {

TEST(SshStream, TellsWhoMayNotFromWhatDoesNotWork) {
  for (const char* said :
       {"eve@node7: Permission denied (publickey).\r\n", "Host key verification failed.\r\n",
        "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n",
        "Received disconnect from 10.0.0.7 port 22:2: Too many authentication failures\r\n"}) {
    EXPECT_TRUE(is_about_authorisation(said)) << said;
  }
  for (const char* said : {"", "ssh: connect to host node7 port 22: Connection refused\r\n",
                           "ssh: Could not resolve hostname node7: Name or service not known\r\n",
                           "Bad configuration option: Permission\r\n",
                           "kex_exchange_identification: read: reset\r\n"}) {
    EXPECT_FALSE(is_about_authorisation(said)) << said;
  }
}

}  // namespace
}  // namespace telefork::session
