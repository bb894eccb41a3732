#include "session/fence.h"

#include <algorithm>
#include <charconv>
#include <exception>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "session/data_bytes.h"
#include "session/guest_tree.h"
#include "session/registry.h"

namespace telefork::session {
namespace {

// A node that does not answer keeps this process from hearing of anything else so long.
constexpr std::chrono::seconds kConnectPatience(1);
constexpr char kKeySeparator = ':';

// What names a session at its telepad.
struct SessionKey {
  std::vector<std::byte> token, telepad;
};

SessionKey key_of(const OpenedNode& opened) {
  return {copy_bytes(opened.reply->getToken()), copy_bytes(opened.reply->getTelepad())};
}

std::string to_digits(const std::vector<std::byte>& bytes) {
  std::string digits;
  for (std::byte byte : bytes) digits += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return digits;
}

std::optional<std::vector<std::byte>> from_digits(std::string_view digits) {
  std::vector<std::byte> bytes(digits.size() / 2);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const char* two = digits.data() + 2 * i;
    unsigned value = 0;
    if (std::from_chars(two, two + 2, value, 16).ptr != two + 2) return std::nullopt;
    bytes[i] = std::byte(value);
  }
  if (bytes.empty() || digits.size() % 2 != 0) return std::nullopt;
  return bytes;
}

// Of a telepad that can be asked again.
class TelepadFence final : public Fence {
 public:
  TelepadFence(std::shared_ptr<NodeConnector> connector, const protocol::OwnMachine& here,
               SessionKey key)
      : connector_(std::move(connector)), here_(here), key_(std::move(key)) {}

  bool try_confirm() noexcept override {
    if (!why_never_.empty()) return false;
    try {
      if (!stream_) ask();
      return read_answer();
    } catch (const std::exception&) {
      // It has ended, or lacks something: it is asked again.
      stream_.reset();
      return false;
    }
  }

  std::string why_never() const override { return why_never_; }
  void add_interest(std::vector<pollfd>& entries) const override {
    if (stream_) entries.push_back(stream_->read_interest());
  }

 private:
  void ask() {
    stream_ = connector_->connect(net::Deadline::in(kConnectPatience));
    decoder_ = {};
    protocol::send_hello(
        *stream_, here_.reader(),
        [this](protocol::schema::Hello::Builder hello) {
          hello.setRole(protocol::schema::Hello::Role::FENCE);
          hello.setToken(as_data(key_.token));
          hello.setTelepad(as_data(key_.telepad));
        },
        net::Deadline::in(kFenceInterval));
  }

  bool read_answer() {
    while (!decoder_.complete()) {
      std::optional<std::size_t> count = stream_->try_read(decoder_.begin_receive());
      if (!count) return false;
      if (*count == 0) stream_->throw_closed();
      decoder_.end_receive(*count);
    }
    stream_.reset();
    // Another telepad than then, or one that knows no fence: what runs there it cannot know.
    if (!decoder_.reply()->hasRefusal()) return true;
    why_never_ =
        protocol::decode_failure(decoder_.reply()->getRefusal(), connector_->node().text()).text();
    return false;
  }

  std::shared_ptr<NodeConnector> connector_;
  const protocol::OwnMachine& here_;
  SessionKey key_;
  std::unique_ptr<net::Stream> stream_;
  protocol::HelloDecoder decoder_;
  std::string why_never_;
};

// Of a private telepad: it and all that it started descend from this process, which has no other
// children. Reaps by pid: the deputy is traced from here, and its changes are the Supervisor's.
class OwnFence final : public Fence {
 public:
  explicit OwnFence(std::string registry) : registry_(std::move(registry)) {}
  bool try_confirm() noexcept override {
    try {
      kill_descendants_once();
      for (pid_t child : kernel::list_children(::getpid())) {
        ::waitpid(child, nullptr, WNOHANG | __WALL);
      }
      if (!kernel::list_children(::getpid()).empty()) return false;
      // What a keeper has registered nobody else would remove: its telepad is killed too.
      forget_ended_sessions(registry_);
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }
  void add_interest(std::vector<pollfd>&) const override {}

 private:
  std::string registry_;
};

}  // namespace

std::unique_ptr<Fence> make_fence(const OpenedNode& opened, const protocol::OwnMachine& here,
                                  const std::string& registry) {
  if (!opened.connector) return std::make_unique<OwnFence>(registry);
  if (opened.connector->node().kind == net::NodeAddress::Kind::kSsh) return nullptr;
  return std::make_unique<TelepadFence>(opened.connector, here, key_of(opened));
}

std::string make_fence_key(const OpenedNode& opened) {
  if (!opened.connector || opened.connector->node().kind == net::NodeAddress::Kind::kSsh) return {};
  const SessionKey key = key_of(opened);
  return to_digits(key.token) + kKeySeparator + to_digits(key.telepad);
}

std::unique_ptr<Fence> make_fence(const net::NodeAddress& node, const NodeAccess& access,
                                  const protocol::OwnMachine& here, const std::string& key) {
  const std::size_t separator = std::min(key.find(kKeySeparator), key.size());
  auto token = from_digits(std::string_view(key).substr(0, separator));
  auto telepad = from_digits(std::string_view(key).substr(std::min(separator + 1, key.size())));
  if (!token || !telepad) return nullptr;
  return std::make_unique<TelepadFence>(std::make_shared<NodeConnector>(node, access), here,
                                        SessionKey{std::move(*token), std::move(*telepad)});
}

net::Deadline::Clock::time_point fence_deadline(net::Deadline::Clock::time_point lease_over) {
  return std::max<net::Deadline::Clock::time_point>(lease_over,
                                                    net::Deadline::Clock::now() + kFencePatience);
}

bool await_fence(Fence* fence, net::Deadline deadline, const std::function<bool()>& is_wanted) {
  while (fence == nullptr || !fence->try_confirm()) {
    if (deadline.passed() || !is_wanted()) return false;
    std::vector<pollfd> entries;
    if (fence != nullptr) fence->add_interest(entries);
    net::poll_until(entries, net::Deadline::in(kFenceInterval));
  }
  return true;
}

}  // namespace telefork::session
