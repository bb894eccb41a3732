// telefork keygen, and telefork trust KEY | NODE KEY | --list | --remove KEY|NODE
#include <cerrno>
#include <cstdio>
#include <optional>

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/output.h"
#include "app/places.h"
#include "base/error.h"
#include "net/address.h"
#include "net/identity.h"
#include "net/trust.h"

namespace telefork::app {
namespace {

using nlohmann::ordered_json;

net::KeysFor keys_for() {
  return ::geteuid() == 0 ? net::KeysFor::kEveryUser : net::KeysFor::kOneUser;
}

std::string current_user() {
  const passwd* entry = ::getpwuid(::geteuid());
  return entry != nullptr ? entry->pw_name : std::to_string(::geteuid());
}

// Of keys, who asks and who serves: the files lie together, but for root's.
struct Folders {
  explicit Folders(const std::string& given)
      : own(given.empty() ? user_folder() : given),
        serving(given.empty() ? telepad_folder() : given) {}
  std::string own;
  std::string serving;
};

std::string parse_tcp_node(const std::string& text) {
  net::NodeAddress node = net::parse_node(text);
  if (node.kind != net::NodeAddress::Kind::kTcp) {
    throw Error(Code::kUsage, text + ": only a HOST[:PORT] has a key to trust");
  }
  return node.text();
}

void say(const TrustCommand& command, const std::string& text, const ordered_json& object) {
  if (command.json) {
    print_json(object);
  } else {
    print("{}\n", escape(text));
  }
}

void print_words(const std::vector<std::string>& words) {
  std::string line;
  for (const std::string& word : words) {
    if (!word.empty()) line += (line.empty() ? "" : " ") + escape(word);
  }
  print("{}\n", line);
}

class Trust {
 public:
  explicit Trust(const TrustCommand& command) : command_(command), folders_(command.keys) {}

  void run() {
    if (command_.list + !command_.remove.empty() + !command_.what.empty() != 1) {
      throw Error(Code::kUsage, "either KEY, or NODE KEY, or --list, or --remove KEY|NODE");
    }
    if (!command_.user.empty() && command_.what.size() != 1) {
      throw Error(Code::kUsage, "--as is for a KEY");
    }
    if (command_.list) return list();
    if (!command_.remove.empty()) return remove();
    if (command_.what.size() == 1) return trust_key();
    trust_node();
  }

 private:
  void trust_key();
  void trust_node();
  void list();
  void remove();

  const TrustCommand& command_;
  Folders folders_;
};

void Trust::trust_key() {
  net::PublicKey key = net::parse_key(command_.what[0]);
  std::string user = command_.user;
  if (keys_for() == net::KeysFor::kEveryUser) {
    if (user.empty()) {
      throw Error(Code::kUsage,
                  fmt::format("whose key is that? telefork trust {} --as USER{}", key.text(),
                              command_.keys.empty() ? "" : " --keys " + command_.keys));
    }
    if (::getpwnam(user.c_str()) == nullptr) {
      throw Error(Code::kUsage, fmt::format("there is no user {} on this machine", user));
    }
  } else if (!user.empty() && user != current_user()) {
    throw Error(Code::kUsage, fmt::format("a telepad of {} serves nobody else: only root's can "
                                          "trust a key as {}",
                                          current_user(), user));
  }
  net::trust_key(folders_.serving, keys_for(), key,
                 keys_for() == net::KeysFor::kEveryUser ? user : "");
  std::string as = user.empty() ? current_user() : user;
  std::string file = net::trusted_keys_path(folders_.serving);
  say(command_, fmt::format("{} is {} here now ({})", key.text(), as, file),
      {{"key", key.text()}, {"user", as}, {"file", file}});
}

void Trust::trust_node() {
  std::string node = parse_tcp_node(command_.what[0]);
  net::PublicKey key = net::parse_key(command_.what[1]);
  std::optional<net::KnownNode> before = net::find_node(net::read_known_nodes(folders_.own), node);
  net::trust_node(folders_.own, node, key);
  std::string file = net::known_nodes_path(folders_.own);
  ordered_json object = {{"node", node}, {"key", key.text()}, {"file", file}};
  std::string text = fmt::format("{} has to show {} from now on ({})", node, key.text(), file);
  if (before && before->key != key) {
    object["replaced"] = before->key.text();
    text += fmt::format(", not {}", before->key.text());
  }
  say(command_, text, object);
}

void Trust::list() {
  ordered_json keys = ordered_json::array();
  ordered_json nodes = ordered_json::array();
  for (const net::TrustedKey& one : net::read_trusted_keys(folders_.serving, keys_for())) {
    std::string user = one.user.empty() ? current_user() : one.user;
    keys.push_back({{"key", one.key.text()}, {"user", user}, {"comment", one.comment}});
    if (!command_.json) print_words({one.key.text(), user, one.comment});
  }
  for (const net::KnownNode& one : net::read_known_nodes(folders_.own)) {
    nodes.push_back({{"node", one.node}, {"key", one.key.text()}, {"comment", one.comment}});
    if (!command_.json) print_words({one.node, one.key.text(), one.comment});
  }
  if (command_.json) print_json({{"trusted_keys", keys}, {"known_nodes", nodes}});
}

void Trust::remove() {
  std::string file;
  bool found = false;
  if (command_.remove.starts_with(net::kKeyPrefix)) {
    file = net::trusted_keys_path(folders_.serving);
    found = net::forget_key(folders_.serving, keys_for(), net::parse_key(command_.remove));
  } else {
    file = net::known_nodes_path(folders_.own);
    found = net::forget_node(folders_.own, parse_tcp_node(command_.remove));
  }
  if (!found) {
    throw Error(Code::kUsage, fmt::format("{} is not in {}", command_.remove, file));
  }
  say(command_, fmt::format("{} is not trusted any more ({})", command_.remove, file),
      {{"removed", command_.remove}, {"file", file}});
}

// Whoever asks for a key has one. That it is a good one is part of the answer; one that came
// without its certificate, from openssl(1) or a backup, is given it.
net::Identity complete_key(const std::string& folder) {
  std::optional<net::Identity> complete;
  try {
    complete = net::Identity::load(folder);
  } catch (const Error&) {
    return net::Identity::mend(folder);
  }
  throw Error(Code::kUsage,
              fmt::format("{} is there already, and its public key is {}; --force replaces it",
                          net::Identity::key_path(folder), complete->key().text()));
}

}  // namespace

int trust_command(const TrustCommand& command) {
  set_own_signals();
  Trust(command).run();
  return 0;
}

int keygen_command(const KeygenCommand& command) {
  set_own_signals();
  Folders folders(command.keys);
  const std::string& folder = command.telepad ? folders.serving : folders.own;
  std::string path = net::Identity::key_path(folder);
  net::Identity identity = net::Identity::make();
  if (command.force) {
    identity.save(folder);
  } else if (!identity.save_as_first(folder)) {
    identity = complete_key(folder);
  }
  if (command.json) {
    print_json({{"key", identity.key().text()}, {"file", path}});
  } else {
    print("{}\n", identity.key().text());
  }
  return 0;
}

}  // namespace telefork::app
