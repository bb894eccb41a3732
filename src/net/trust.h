// The files that pin the other end's key, one line an entry:
//
//     trusted_keys, of root's telepad     KEY USER             who with that key is to be whom
//     trusted_keys, of a user's telepad   KEY [comment]        who with that key is to be that user
//     known_nodes, of who asks            NODE KEY [comment]   what the telepad there must show
//
// Empty lines and those that begin with # say nothing. Anything else that is not understood is an
// Error that names file and line, and what mends it, so that no line is ever trusted half. The
// functions on text are pure; the files are read anew for every connection, so that a change counts
// from the next on.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "net/public_key.h"

namespace telefork::net {

enum class KeysFor {
  kEveryUser,  // each line names the user
  kOneUser,    // the file's owner
};

struct TrustedKey {
  PublicKey key;
  std::string user;     // of kEveryUser
  std::string comment;  // of kOneUser
};

struct KnownNode {
  std::string node;  // as NodeAddress::text() has it
  PublicKey key;
  std::string comment;
};

// ---- Text; `path` is for the Errors (kUnauthorised) ----

std::vector<TrustedKey> parse_trusted_keys(std::string_view text, const std::string& path,
                                           KeysFor keys_for);
std::vector<KnownNode> parse_known_nodes(std::string_view text, const std::string& path);

// `text` with one line changed, or one more; every other line as it was.
std::string with_trusted_key(std::string_view text, const PublicKey& key, std::string_view rest);
std::string with_known_node(std::string_view text, std::string_view node, const PublicKey& key);
// Empty: there was no such line.
std::optional<std::string> without_trusted_key(std::string_view text, const PublicKey& key);
std::optional<std::string> without_known_node(std::string_view text, std::string_view node);

// ---- Files ----

std::string trusted_keys_path(const std::string& folder);
std::string known_nodes_path(const std::string& folder);

// A file that does not exist is an empty one.
std::vector<TrustedKey> read_trusted_keys(const std::string& folder, KeysFor keys_for);
std::vector<KnownNode> read_known_nodes(const std::string& folder);
std::optional<TrustedKey> find_key(const std::vector<TrustedKey>& keys, const PublicKey& key);
std::optional<KnownNode> find_node(const std::vector<KnownNode>& nodes, std::string_view node);

// What was there is checked as a whole before it is changed.
void trust_key(const std::string& folder, KeysFor keys_for, const PublicKey& key,
               std::string_view rest);
void trust_node(const std::string& folder, std::string_view node, const PublicKey& key);
// False: there was none.
bool forget_key(const std::string& folder, KeysFor keys_for, const PublicKey& key);
bool forget_node(const std::string& folder, std::string_view node);

}  // namespace telefork::net
