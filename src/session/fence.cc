#include "session/fence.h"

#include <algorithm>
#include <csignal>
#include <exception>
#include <optional>
#include <utility>

#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "session/guest_tree.h"
#include "session/registry.h"

namespace telefork::session {
namespace {

// A node that does not answer keeps this process from hearing of anything else so long.
constexpr std::chrono::seconds kConnectPatience(1);

std::vector<std::byte> copy_bytes(::capnp::Data::Reader data) {
  const auto* begin = reinterpret_cast<const std::byte*>(data.begin());
  return {begin, begin + data.size()};
}

::capnp::Data::Reader as_data(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

// Of a telepad that can be asked again.
class TelepadFence final : public Fence {
 public:
  TelepadFence(const OpenedNode& opened, const protocol::OwnMachine& here)
      : connector_(opened.connector),
        here_(here),
        token_(copy_bytes(opened.reply->getToken())),
        telepad_(copy_bytes(opened.reply->getTelepad())) {}

  bool try_confirm() noexcept override {
    if (refused_) return false;
    try {
      if (!stream_) ask();
      return read_answer();
    } catch (const std::exception&) {
      // It has ended, or lacks something: it is asked again.
      stream_.reset();
      return false;
    }
  }

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
          hello.setToken(as_data(token_));
          hello.setTelepad(as_data(telepad_));
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
    refused_ = decoder_.reply()->hasRefusal();
    return !refused_;
  }

  std::shared_ptr<NodeConnector> connector_;
  const protocol::OwnMachine& here_;
  std::vector<std::byte> token_;
  std::vector<std::byte> telepad_;
  std::unique_ptr<net::Stream> stream_;
  protocol::HelloDecoder decoder_;
  bool refused_ = false;
};

// Of a private telepad: it and all that it started descend from this process, which has no other
// children. Reaps by pid: the deputy is traced from here, and its changes are the Supervisor's.
class OwnFence final : public Fence {
 public:
  explicit OwnFence(std::string registry) : registry_(std::move(registry)) {}
  bool try_confirm() noexcept override {
    try {
      signal_descendants(SIGKILL);
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
  return std::make_unique<TelepadFence>(opened, here);
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
