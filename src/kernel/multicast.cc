#include "kernel/multicast.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include <netinet/in.h>

#include "kernel/proc_file.h"
#include "kernel/text_scanner.h"

namespace telefork::kernel {
namespace {

constexpr std::string_view kFour = "/proc/net/igmp";
constexpr std::string_view kSix = "/proc/net/igmp6";

unsigned parse_index(std::string_view word, std::string_view what) {
  const std::uint64_t index = parse_decimal(word, what);
  if (index > std::numeric_limits<unsigned>::max()) TextScanner(word, what).fail("an index");
  return static_cast<unsigned>(index);
}

MulticastGroup group_of(unsigned interface, std::uint32_t address) {
  MulticastGroup group{interface, {}};
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_addr.s_addr = address;
  std::memcpy(&group.address, &four, sizeof(four));
  return group;
}

bool is_member(const UniqueFd& socket, const MulticastGroup& group) {
  group_filter filter{};
  filter.gf_interface = group.interface;
  std::memcpy(&filter.gf_group, &group.address, sizeof(filter.gf_group));
  socklen_t size = sizeof(filter);
  const int level = group.address.ss_family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
  // EADDRNOTAVAIL of one that it is no member of.
  return ::getsockopt(socket.get(), level, MCAST_MSFILTER, &filter, &size) == 0;
}

}  // namespace

// A line of an interface, "1<tab>lo        :     1      V3", and behind it one of each group, which
// begins with tabs: the address as the number that lies in memory.
std::vector<MulticastGroup> parse_igmp(std::string_view text) {
  std::vector<MulticastGroup> groups;
  TextScanner scanner(text, kFour);
  unsigned interface = 0;
  if (!scanner.at_end()) scanner.rest_of_line();  // the heading
  while (!scanner.at_end()) {
    std::string_view line = scanner.rest_of_line();
    std::vector<std::string_view> words = split_words(line);
    if (words.empty()) continue;
    if (line.front() != '\t') {
      interface = parse_index(words[0], kFour);
      continue;
    }
    const std::uint64_t address = parse_hex(words[0], kFour);
    if (interface == 0 || address > UINT32_MAX) scanner.fail("a group of an interface");
    groups.push_back(group_of(interface, static_cast<std::uint32_t>(address)));
  }
  return groups;
}

// "1    lo              ff020000000000000000000000000001     1 0000000C 0"
std::vector<MulticastGroup> parse_igmp6(std::string_view text) {
  constexpr std::size_t kDigits = 32;
  std::vector<MulticastGroup> groups;
  TextScanner scanner(text, kSix);
  while (!scanner.at_end()) {
    std::vector<std::string_view> words = split_words(scanner.rest_of_line());
    if (words.empty()) continue;
    if (words.size() < 3 || words[2].size() != kDigits) scanner.fail("a group of an interface");
    MulticastGroup group{parse_index(words[0], kSix), {}};
    sockaddr_in6 six{};
    six.sin6_family = AF_INET6;
    for (std::size_t i = 0; i < kDigits / 2; ++i) {
      six.sin6_addr.s6_addr[i] =
          static_cast<std::uint8_t>(parse_hex(words[2].substr(2 * i, 2), kSix));
    }
    std::memcpy(&group.address, &six, sizeof(six));
    groups.push_back(group);
  }
  return groups;
}

bool has_multicast_groups(const UniqueFd& socket) {
  std::vector<MulticastGroup> groups = parse_igmp(try_read_system_file(std::string(kFour)));
  std::vector<MulticastGroup> six = parse_igmp6(try_read_system_file(std::string(kSix)));
  groups.insert(groups.end(), six.begin(), six.end());
  return std::any_of(groups.begin(), groups.end(),
                     [&](const MulticastGroup& group) { return is_member(socket, group); });
}

}  // namespace telefork::kernel
