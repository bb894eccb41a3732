#include "net/trust.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <functional>

#include <fmt/format.h>

#include "base/error.h"
#include "base/shell_word.h"
#include "net/address.h"
#include "net/guarded_file.h"

namespace telefork::net {
namespace {

constexpr std::string_view kBlanks = " \t";

struct Line {
  std::string_view text;  // without its newline
  std::size_t number;
};

std::vector<Line> split_lines(std::string_view text) {
  std::vector<Line> lines;
  for (std::size_t number = 1; !text.empty(); ++number) {
    std::size_t end = std::min(text.find('\n'), text.size());
    lines.push_back({text.substr(0, end), number});
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

std::string_view trim(std::string_view text) {
  std::size_t begin = text.find_first_not_of(kBlanks);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

// The first word, which is taken off `text`.
std::string_view take_word(std::string_view& text) {
  text = trim(text);
  std::size_t end = std::min(text.find_first_of(kBlanks), text.size());
  std::string_view word = text.substr(0, end);
  text = trim(text.substr(end));
  return word;
}

bool says_something(std::string_view line) {
  line = trim(line);
  return !line.empty() && line.front() != '#';
}

// What no command of ours understands none can mend.
[[noreturn]] void refuse(const std::string& path, const Line& line, std::string_view why) {
  const std::string folder = path.substr(0, path.rfind('/'));
  const bool of_nodes = path == known_nodes_path(folder);
  throw Error(Code::kUnauthorised,
              fmt::format("{}:{}: {}; sed -i {}d {} takes the line out, and then telefork trust {} "
                          "--keys {} says anew what it was to say",
                          path, line.number, why, line.number, quote_for_shell(path),
                          of_nodes ? "NODE KEY" : "KEY", quote_for_shell(folder)));
}

void check_characters(const std::string& path, const Line& line) {
  for (char c : line.text) {
    auto code = static_cast<unsigned char>(c);
    if ((code < ' ' && c != '\t') || code == 0x7f) refuse(path, line, "a control character");
  }
}

PublicKey take_key(const std::string& path, const Line& line, std::string_view word) {
  std::optional<PublicKey> key = try_parse_key(word);
  if (!key) refuse(path, line, fmt::format("'{}' is no public key", word));
  return *key;
}

bool is_user_name(std::string_view name) {
  return !name.empty() && name.front() != '-' &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '_' || c == '-' || c == '.' || c == '$' || c == '@';
         });
}

TrustedKey parse_trusted_key(const std::string& path, const Line& line, KeysFor keys_for) {
  std::string_view rest = line.text;
  TrustedKey entry{take_key(path, line, take_word(rest)), {}, {}};
  if (keys_for == KeysFor::kOneUser) {
    entry.comment = rest;
    return entry;
  }
  entry.user = take_word(rest);
  if (entry.user.empty()) refuse(path, line, "the user is missing behind the key");
  if (!is_user_name(entry.user)) {
    refuse(path, line, fmt::format("'{}' is no user's name", entry.user));
  }
  if (!rest.empty()) refuse(path, line, fmt::format("'{}' follows the user", rest));
  return entry;
}

KnownNode parse_known_node(const std::string& path, const Line& line) {
  std::string_view rest = line.text;
  std::string_view name = take_word(rest);
  NodeAddress node;
  try {
    node = parse_node(name);
  } catch (const Error& error) {
    refuse(path, line, error.text());
  }
  if (node.kind != NodeAddress::Kind::kTcp) {
    refuse(path, line, fmt::format("{} is no HOST[:PORT]: only those have keys", name));
  }
  PublicKey key = take_key(path, line, take_word(rest));
  return {node.text(), key, std::string(rest)};
}

// Names of hosts are the same in whatever case (RFC 4343).
bool is_same_name(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) {
    return std::tolower(x) == std::tolower(y);
  });
}

bool is_node(std::string_view word, std::string_view node) {
  try {
    return is_same_name(parse_node(word).text(), node);
  } catch (const Error&) {
    return false;
  }
}

// `text` without the lines whose first word `matches`, the first of them replaced by `instead`.
std::string replace_lines(std::string_view text,
                          const std::function<bool(std::string_view)>& matches,
                          std::optional<std::string> instead, bool& found) {
  std::string changed;
  found = false;
  for (const Line& line : split_lines(text)) {
    std::string_view rest = line.text;
    if (!says_something(line.text) || !matches(take_word(rest))) {
      changed += fmt::format("{}\n", line.text);
      continue;
    }
    if (!found && instead) changed += *instead + "\n";
    found = true;
  }
  if (!found && instead) changed += *instead + "\n";
  return changed;
}

std::optional<std::string> without_lines(std::string_view text,
                                         const std::function<bool(std::string_view)>& matches) {
  bool found = false;
  std::string changed = replace_lines(text, matches, std::nullopt, found);
  if (!found) return std::nullopt;
  return changed;
}

std::string read_or_empty(const std::string& path) {
  try {
    return read_guarded(path);
  } catch (const Error& error) {
    if (error.error() == ENOENT) return "";
    throw;
  }
}

}  // namespace

std::vector<TrustedKey> parse_trusted_keys(std::string_view text, const std::string& path,
                                           KeysFor keys_for) {
  std::vector<TrustedKey> keys;
  for (const Line& line : split_lines(text)) {
    check_characters(path, line);
    if (!says_something(line.text)) continue;
    TrustedKey entry = parse_trusted_key(path, line, keys_for);
    if (find_key(keys, entry.key)) refuse(path, line, "the key is there twice");
    keys.push_back(std::move(entry));
  }
  return keys;
}

std::vector<KnownNode> parse_known_nodes(std::string_view text, const std::string& path) {
  std::vector<KnownNode> nodes;
  for (const Line& line : split_lines(text)) {
    check_characters(path, line);
    if (!says_something(line.text)) continue;
    KnownNode entry = parse_known_node(path, line);
    if (find_node(nodes, entry.node)) refuse(path, line, "the node is there twice");
    nodes.push_back(std::move(entry));
  }
  return nodes;
}

std::string with_trusted_key(std::string_view text, const PublicKey& key, std::string_view rest) {
  bool found = false;
  std::string line = rest.empty() ? key.text() : fmt::format("{} {}", key.text(), rest);
  return replace_lines(
      text, [&](std::string_view word) { return word == key.text(); }, line, found);
}

std::string with_known_node(std::string_view text, std::string_view node, const PublicKey& key) {
  bool found = false;
  return replace_lines(
      text, [&](std::string_view word) { return is_node(word, node); },
      fmt::format("{} {}", node, key.text()), found);
}

std::optional<std::string> without_trusted_key(std::string_view text, const PublicKey& key) {
  return without_lines(text, [&](std::string_view word) { return word == key.text(); });
}

std::optional<std::string> without_known_node(std::string_view text, std::string_view node) {
  return without_lines(text, [&](std::string_view word) { return is_node(word, node); });
}

std::string trusted_keys_path(const std::string& folder) { return folder + "/trusted_keys"; }
std::string known_nodes_path(const std::string& folder) { return folder + "/known_nodes"; }

std::vector<TrustedKey> read_trusted_keys(const std::string& folder, KeysFor keys_for) {
  std::string path = trusted_keys_path(folder);
  return parse_trusted_keys(read_or_empty(path), path, keys_for);
}

std::vector<KnownNode> read_known_nodes(const std::string& folder) {
  std::string path = known_nodes_path(folder);
  return parse_known_nodes(read_or_empty(path), path);
}

std::optional<TrustedKey> find_key(const std::vector<TrustedKey>& keys, const PublicKey& key) {
  for (const TrustedKey& entry : keys) {
    if (entry.key == key) return entry;
  }
  return std::nullopt;
}

std::optional<KnownNode> find_node(const std::vector<KnownNode>& nodes, std::string_view node) {
  for (const KnownNode& entry : nodes) {
    if (is_same_name(entry.node, node)) return entry;
  }
  return std::nullopt;
}

void trust_key(const std::string& folder, KeysFor keys_for, const PublicKey& key,
               std::string_view rest) {
  make_guarded_folder(folder);
  FolderLock lock(folder);
  std::string path = trusted_keys_path(folder);
  std::string before = read_or_empty(path);
  parse_trusted_keys(before, path, keys_for);
  std::string after = with_trusted_key(before, key, rest);
  parse_trusted_keys(after, path, keys_for);
  write_guarded(path, after);
}

void trust_node(const std::string& folder, std::string_view node, const PublicKey& key) {
  make_guarded_folder(folder);
  FolderLock lock(folder);
  std::string path = known_nodes_path(folder);
  std::string before = read_or_empty(path);
  parse_known_nodes(before, path);
  write_guarded(path, with_known_node(before, node, key));
}

bool forget_key(const std::string& folder, KeysFor keys_for, const PublicKey& key) {
  std::string path = trusted_keys_path(folder);
  if (read_or_empty(path).empty()) return false;
  FolderLock lock(folder);
  std::string before = read_or_empty(path);
  parse_trusted_keys(before, path, keys_for);
  std::optional<std::string> after = without_trusted_key(before, key);
  if (after) write_guarded(path, *after);
  return after.has_value();
}

bool forget_node(const std::string& folder, std::string_view node) {
  std::string path = known_nodes_path(folder);
  if (read_or_empty(path).empty()) return false;
  FolderLock lock(folder);
  std::string before = read_or_empty(path);
  parse_known_nodes(before, path);
  std::optional<std::string> after = without_known_node(before, node);
  if (after) write_guarded(path, *after);
  return after.has_value();
}

}  // namespace telefork::net
