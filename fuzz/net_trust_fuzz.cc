// The files that say who is trusted, and the texts of keys. The first byte says what the rest is.
// Whatever is in it, it is either taken, and then a key can be added and taken away again and all
// else stays what it was, or refused by file and line.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "net/identity.h"
#include "net/private_key.h"
#include "net/public_key.h"
#include "net/trust.h"

namespace telefork::net {
namespace {

const std::string kPath = "file";
constexpr std::string_view kNode = "[fd00::7]:81";

PublicKey another_key() {
  PublicKey key;
  key.bytes.fill(std::byte{0x5a});
  return key;
}

void check_refusal(const Error& error) {
  TELEFORK_ASSERT(error.code() == Code::kUnauthorised);
  TELEFORK_ASSERT(error.text().starts_with(kPath + ":"));
}

void take_trusted_keys(std::string_view text, KeysFor keys_for) {
  std::vector<TrustedKey> before;
  try {
    before = parse_trusted_keys(text, kPath, keys_for);
  } catch (const Error& error) {
    check_refusal(error);
    return;
  }
  PublicKey key = another_key();
  bool was_there = find_key(before, key).has_value();
  std::string with = with_trusted_key(text, key, "eve");
  std::vector<TrustedKey> after = parse_trusted_keys(with, kPath, keys_for);
  TELEFORK_ASSERT(after.size() == before.size() + (was_there ? 0 : 1));
  for (const TrustedKey& one : before) {
    std::optional<TrustedKey> found = find_key(after, one.key);
    TELEFORK_ASSERT(found &&
                    (one.key == key || (found->user == one.user && found->comment == one.comment)));
  }
  std::optional<std::string> without = without_trusted_key(with, key);
  TELEFORK_ASSERT(without);
  after = parse_trusted_keys(*without, kPath, keys_for);
  TELEFORK_ASSERT(after.size() == before.size() - (was_there ? 1 : 0) && !find_key(after, key));
}

void take_known_nodes(std::string_view text) {
  std::vector<KnownNode> before;
  try {
    before = parse_known_nodes(text, kPath);
  } catch (const Error& error) {
    check_refusal(error);
    return;
  }
  bool was_there = find_node(before, kNode).has_value();
  std::string with = with_known_node(text, kNode, another_key());
  std::vector<KnownNode> after = parse_known_nodes(with, kPath);
  TELEFORK_ASSERT(after.size() == before.size() + (was_there ? 0 : 1));
  for (const KnownNode& one : before) {
    std::optional<KnownNode> found = find_node(after, one.node);
    TELEFORK_ASSERT(found && (one.node == kNode || found->key == one.key));
  }
  std::optional<std::string> without = without_known_node(with, kNode);
  TELEFORK_ASSERT(without);
  after = parse_known_nodes(*without, kPath);
  TELEFORK_ASSERT(after.size() == before.size() - (was_there ? 1 : 0) && !find_node(after, kNode));
}

void take_keys(std::string_view text) {
  std::optional<PublicKey> key = try_parse_key(text);
  TELEFORK_ASSERT(!key || key->text() == text);
  auto own = try_parse_private_key(std::as_bytes(std::span(text)));
  TELEFORK_ASSERT(!own || try_public_key(own.get()));
}

}  // namespace
}  // namespace telefork::net

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace telefork::net;
  if (size == 0) return 0;
  std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      take_trusted_keys(text, KeysFor::kEveryUser);
      break;
    case 1:
      take_trusted_keys(text, KeysFor::kOneUser);
      break;
    case 2:
      take_known_nodes(text);
      break;
    default:
      take_keys(text);
  }
  return 0;
}
