#include "session/reconnector.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "base/quiet_thread.h"
#include "protocol/handshake.h"
#include "protocol/machine.h"
#include "session/data_bytes.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;

constexpr auto kAttempt = 5s;
constexpr auto kFirstPause = 100ms;
constexpr auto kLongestPause = 2s;

// What a telepad says that will say nothing else.
bool is_final(Code code) {
  return code == Code::kGone || code == Code::kRefused || code == Code::kUnauthorised;
}

}  // namespace

Reconnector::Reconnector(Of of, std::shared_ptr<net::ResumableStream::Entrance> entrance)
    : of_(std::move(of)), entrance_(std::move(entrance)) {}

Reconnector::~Reconnector() {
  {
    std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Reconnector::want() {
  std::lock_guard lock(mutex_);
  wanted_ = true;
  if (!thread_.joinable()) thread_ = start_quiet_thread([this] { run(); });
  changed_.notify_all();
}

void Reconnector::run() {
  std::unique_lock lock(mutex_);
  auto pause = kFirstPause;
  for (;;) {
    changed_.wait(lock, [this] { return over_ || wanted_; });
    if (over_) return;
    wanted_ = false;
    lock.unlock();
    const bool done = attempt();
    lock.lock();
    if (done) {
      pause = kFirstPause;
      continue;
    }
    wanted_ = true;
    if (changed_.wait_for(lock, pause, [this] { return over_; })) return;
    pause = std::min<decltype(pause)>(2 * pause, kLongestPause);
  }
}

bool Reconnector::attempt() {
  const net::Deadline deadline = net::Deadline::in(kAttempt);
  std::unique_ptr<net::Stream> stream;
  try {
    stream = of_.connector.connect(deadline);
  } catch (const Error&) {
    return false;  // Or somebody else answers there, on another network for instance.
  }
  try {
    const protocol::OwnMachine here;
    protocol::ReceivedHelloReply reply = protocol::say_hello(
        *stream, of_.connector.node().text(), here.reader(),
        [this](protocol::schema::Hello::Builder hello) {
          hello.setRole(protocol::schema::Hello::Role::RESUME);
          hello.setToken(as_data(of_.token));
          hello.setTelepad(as_data(of_.telepad));
          hello.setPages(of_.pages);
        },
        deadline);
    entrance_->offer(std::move(stream), reply->getReceived());
  } catch (const Error& error) {
    if (!is_final(error.code())) return false;
    entrance_->refuse(error);
  }
  return true;
}

Outliving outlive_losses(std::unique_ptr<net::Stream> first, Reconnector::Of of,
                         net::ResumableStream::Settings settings) {
  // The stream has it, and is there first.
  auto reconnector = std::make_shared<std::shared_ptr<Reconnector>>();
  settings.role = net::ResumableStream::Role::kClient;
  settings.on_loss = [reconnector] { (*reconnector)->want(); };
  auto stream = std::make_unique<net::ResumableStream>(std::move(first), std::move(settings));
  *reconnector = std::make_shared<Reconnector>(std::move(of), stream->entrance());
  return {std::move(stream), *reconnector};
}

}  // namespace telefork::session
