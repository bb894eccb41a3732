#include "proxy/stdio_pump.h"

#include <algorithm>
#include <cerrno>

#include <fmt/format.h>

#include "base/error.h"

namespace telefork::proxy {

using protocol::schema::Message;

StdioPump StdioPump::at_home(protocol::Link& link, UniqueFd in, UniqueFd out, UniqueFd err) {
  StdioPump pump(link);
  if (in) pump.streams_[0].sender.emplace(link, 0, std::move(in));
  if (out) {
    pump.streams_[1].receiver.emplace(link, 1, std::move(out));
  }
  if (err) {
    pump.streams_[2].receiver.emplace(link, 2, std::move(err));
  }
  return pump;
}

StdioPump StdioPump::at_keeper(protocol::Link& link, UniqueFd in, UniqueFd out, UniqueFd err) {
  StdioPump pump(link);
  if (in) pump.streams_[0].receiver.emplace(link, 0, std::move(in));
  if (out) pump.streams_[1].sender.emplace(link, 1, std::move(out));
  if (err) pump.streams_[2].sender.emplace(link, 2, std::move(err));
  return pump;
}

void StdioPump::add_interest(std::vector<pollfd>& entries) const {
  for (const Stream& one : streams_) {
    if (one.sender) one.sender->add_interest(entries);
    if (one.receiver) one.receiver->add_interest(entries);
  }
}

void StdioPump::on_ready(std::span<const pollfd> entries) {
  for (Stream& one : streams_) {
    if (one.sender) one.sender->on_ready(entries);
    if (one.receiver) one.receiver->on_ready(entries);
  }
}

StdioPump::Stream& StdioPump::stream(unsigned number) {
  if (number < kStreams) return streams_[number];
  throw Error(Code::kCorrupt, fmt::format("{}: there is no stream {}", link_->node(), number));
}

void StdioPump::on_data(unsigned number, std::span<const std::byte> bytes) {
  Stream& one = stream(number);
  if (one.receiver) return one.receiver->on_data(bytes);
  link_->send([&](Message::Builder message) {
    auto broken = message.initStdioBroken();
    broken.setStream(number);
    broken.setErrno(EBADF);
  });
}

bool StdioPump::on_message(const protocol::ReceivedMessage& message) {
  switch (message->which()) {
    case Message::STDIO_DATA: {
      auto data = message->getStdioData().getData();
      on_data(message->getStdioData().getStream(),
              std::as_bytes(std::span(data.begin(), data.size())));
      return true;
    }
    case Message::STDIO_END:
      if (auto& receiver = stream(message->getStdioEnd()).receiver) receiver->on_end();
      return true;
    case Message::STDIO_CREDIT: {
      auto credit = message->getStdioCredit();
      if (auto& sender = stream(credit.getStream()).sender) sender->on_credit(credit.getBytes());
      return true;
    }
    case Message::STDIO_BROKEN:
      if (auto& sender = stream(message->getStdioBroken().getStream()).sender) sender->on_broken();
      return true;
    default:
      return false;
  }
}

void StdioPump::set_input_paused(bool paused) {
  if (streams_[0].sender) streams_[0].sender->set_paused(paused);
}

void StdioPump::begin_drain() {
  for (Stream& one : streams_) {
    if (one.sender) one.sender->begin_drain();
  }
}

bool StdioPump::drained() const {
  return std::all_of(std::begin(streams_), std::end(streams_),
                     [](const Stream& one) { return !one.sender || one.sender->drained(); });
}

bool StdioPump::idle() const {
  return std::all_of(std::begin(streams_), std::end(streams_),
                     [](const Stream& one) { return !one.receiver || one.receiver->idle(); });
}

std::optional<Error> StdioPump::loss() const {
  static constexpr const char* kNames[kStreams] = {"stdin", "stdout", "stderr"};
  for (unsigned i = 0; i < kStreams; ++i) {
    int error = streams_[i].receiver ? streams_[i].receiver->loss() : 0;
    if (error != 0) {
      return Error(Code::kResources, fmt::format("writing its {}", kNames[i]), error);
    }
  }
  return std::nullopt;
}

std::vector<std::byte> StdioPump::undelivered_input() const {
  if (!streams_[0].receiver) return {};
  auto waiting = streams_[0].receiver->waiting();
  return {waiting.begin(), waiting.end()};
}

bool StdioPump::closed_by_guest(unsigned number) const {
  const Stream& one = streams_[number];
  if (one.sender) return one.sender->broken();
  return !one.receiver || one.receiver->ended();
}

bool StdioPump::senders_ended() const {
  return std::all_of(std::begin(streams_), std::end(streams_),
                     [](const Stream& one) { return !one.sender || one.sender->ended(); });
}

}  // namespace telefork::proxy
