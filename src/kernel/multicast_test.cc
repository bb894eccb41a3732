#include "kernel/multicast.h"

#include <cstring>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <netinet/in.h>

#include "base/testing_error.h"

namespace telefork::kernel {
namespace {

TEST(Multicast, GroupsAreReadFromTheKernelsLists) {
  auto groups = parse_igmp(
      "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
      "1\tlo        :     1      V3\n"
      "\t\t\t\t010000E0     1 0:00000000\t\t0\n"
      "2\teth0      :     2      V3\n"
      "\t\t\t\t0101EFEF     1 0:00000000\t\t0\n"
      "\t\t\t\t010000E0     1 0:00000000\t\t0\n");
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups[0].interface, 1u);
  EXPECT_EQ(groups[1].interface, 2u);
  sockaddr_in four{};
  std::memcpy(&four, &groups[1].address, sizeof(four));
  EXPECT_EQ(four.sin_addr.s_addr, 0x0101EFEFu);
  groups = parse_igmp6("1    lo              ff020000000000000000000000000001     1 0000000C 0\n");
  ASSERT_EQ(groups.size(), 1u);
  sockaddr_in6 six{};
  std::memcpy(&six, &groups[0].address, sizeof(six));
  char text[INET6_ADDRSTRLEN];
  EXPECT_STREQ(::inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof(text)), "ff02::1");
}

TEST(Multicast, ListsThatAreNotOfTheirFormatAreRefused) {
  for (const char* text :
       {"heading\nx\tlo\n", "heading\n\t\t010000E0 1\n", "heading\n1\tlo\n\t\t1010000E0 1\n"}) {
    EXPECT_EQ(error_of([text] { parse_igmp(text); }).code(), Code::kCorrupt) << text;
  }
  for (const char* text :
       {"1 lo ff02 1\n", "1 lo\n", "1 lo ff02000000000000000000000000000x 1\n"}) {
    EXPECT_EQ(error_of([text] { parse_igmp6(text); }).code(), Code::kCorrupt) << text;
  }
}

TEST(Multicast, MembershipIsNoticed) {
  UniqueFd four(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_FALSE(has_multicast_groups(four));
  ip_mreqn request{};
  ::inet_pton(AF_INET, "239.1.2.3", &request.imr_multiaddr);
  request.imr_ifindex = static_cast<int>(::if_nametoindex("lo"));
  if (::setsockopt(four.get(), IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof(request)) != 0) {
    GTEST_SKIP() << "needs: multicast";
  }
  EXPECT_TRUE(has_multicast_groups(four));
  UniqueFd other(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_FALSE(has_multicast_groups(other));
  UniqueFd six(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  EXPECT_FALSE(has_multicast_groups(six));
  ipv6_mreq request6{};
  ::inet_pton(AF_INET6, "ff15::1234", &request6.ipv6mr_multiaddr);
  request6.ipv6mr_interface = ::if_nametoindex("lo");
  ASSERT_EQ(::setsockopt(six.get(), IPPROTO_IPV6, IPV6_JOIN_GROUP, &request6, sizeof(request6)), 0);
  EXPECT_TRUE(has_multicast_groups(six));
}

}  // namespace
}  // namespace telefork::kernel
