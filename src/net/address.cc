#include "net/address.h"

#include <charconv>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::net {
namespace {

[[noreturn]] void refuse(std::string_view text, std::string_view why) {
  throw Error(Code::kUsage,
              fmt::format("'{}' is no node: {} (a node is local, HOST[:PORT], ssh://[USER@]HOST or "
                          "unix:PATH)",
                          text, why));
}

// A name that reaches ssh's command line or the resolver: a leading dash would be an option.
void check_name(std::string_view text, std::string_view name, std::string_view what) {
  if (name.empty()) refuse(text, fmt::format("the {} is missing", what));
  if (name.front() == '-') refuse(text, fmt::format("a {} does not begin with '-'", what));
  for (char c : name) {
    if (static_cast<unsigned char>(c) <= ' ' || c == 0x7f || c == '/' || c == '@') {
      refuse(text, fmt::format("the {} holds a character that no {} has", what, what));
    }
  }
}

std::uint16_t parse_port(std::string_view text, std::string_view digits) {
  unsigned port = 0;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc() || end != digits.data() + digits.size() || port == 0 || port > 65535) {
    refuse(text, fmt::format("'{}' is no port", digits));
  }
  return static_cast<std::uint16_t>(port);
}

NodeAddress parse_ssh(std::string_view text, std::string_view rest) {
  NodeAddress address{.kind = NodeAddress::Kind::kSsh};
  if (auto at = rest.find('@'); at != rest.npos) {
    check_name(text, rest.substr(0, at), "user");
    address.user = rest.substr(0, at);
    rest.remove_prefix(at + 1);
  }
  check_name(text, rest, "host");
  address.host = rest;
  return address;
}

NodeAddress parse_tcp(std::string_view text) {
  NodeAddress address{.kind = NodeAddress::Kind::kTcp};
  std::string_view host = text;
  std::string_view after;
  if (text.front() == '[') {
    auto close = text.find(']');
    if (close == text.npos) refuse(text, "']' is missing");
    host = text.substr(1, close - 1);
    after = text.substr(close + 1);
    if (!after.empty() && after.front() != ':') refuse(text, "only ':PORT' can follow ']'");
  } else if (auto colon = text.find(':'); colon != text.npos) {
    if (text.find(':', colon + 1) != text.npos) {
      refuse(text, "an IPv6 address needs brackets, as in [::1]:7335");
    }
    host = text.substr(0, colon);
    after = text.substr(colon);
  }
  check_name(text, host, "host");
  address.host = host;
  if (!after.empty()) address.port = parse_port(text, after.substr(1));
  return address;
}

}  // namespace

std::string NodeAddress::text() const {
  switch (kind) {
    case Kind::kLocal:
      return "local";
    case Kind::kUnix:
      return "unix:" + path;
    case Kind::kSsh:
      return user.empty() ? "ssh://" + host : fmt::format("ssh://{}@{}", user, host);
    case Kind::kTcp:
      break;
  }
  std::string name = host.find(':') == host.npos ? host : fmt::format("[{}]", host);
  return port == kDefaultPort ? name : fmt::format("{}:{}", name, port);
}

NodeAddress parse_node(std::string_view text) {
  constexpr std::string_view kSshPrefix = "ssh://";
  constexpr std::string_view kUnixPrefix = "unix:";
  if (text.empty()) refuse(text, "it is empty");
  if (text.find('\0') != text.npos) refuse(text, "it holds a zero byte");
  if (text == "local") return {};
  if (text.starts_with(kSshPrefix)) return parse_ssh(text, text.substr(kSshPrefix.size()));
  if (text.starts_with(kUnixPrefix)) {
    std::string_view path = text.substr(kUnixPrefix.size());
    if (path.empty()) refuse(text, "the path is missing");
    return {.kind = NodeAddress::Kind::kUnix, .path = std::string(path)};
  }
  return parse_tcp(text);
}

}  // namespace telefork::net
