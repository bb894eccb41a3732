#include "session/replacements.h"

#include <utility>

#include "base/error.h"
#include "net/fd_stream.h"
#include "protocol/handshake.h"
#include "protocol/machine.h"

namespace telefork::session {
namespace {

void say_how_far(net::Stream& connection, std::uint64_t received) {
  const protocol::OwnMachine here;
  protocol::send_hello_reply(
      connection, here.reader(), [received](auto reply) { reply.setReceived(received); },
      net::Deadline::in(protocol::kHandshakePatience));
}

}  // namespace

// A greeter is between this process and what is lost.
std::unique_ptr<net::Stream> Replacements::make(std::unique_ptr<net::Stream> first,
                                                std::shared_ptr<Entrance>& entrance) {
  if (!resumes_) return first;
  net::ResumableStream::Settings settings;
  settings.role = net::ResumableStream::Role::kServer;
  settings.hangup_is_loss = true;
  settings.armed_with = control_;
  auto stream = std::make_unique<net::ResumableStream>(std::move(first), std::move(settings));
  entrance = stream->entrance();
  return stream;
}

std::unique_ptr<net::Stream> Replacements::of_control(UniqueFd socket, UniqueFd out,
                                                      const std::string& name) {
  if (out) return std::make_unique<net::FdStream>(std::move(socket), std::move(out), name);
  return make(std::make_unique<net::FdStream>(std::move(socket), name), control_);
}

std::unique_ptr<net::Stream> Replacements::of_pages(std::unique_ptr<net::Stream> first) {
  return make(std::move(first), pages_);
}

void Replacements::begin(TrustAsker& trust, protocol::Link& link) {
  net::ResumableStream* control = link.resumable();
  if (control == nullptr || trust.fd() < 0) return;
  link.outlive_connection();
  control->watch(trust.fd(), [this, &trust, control] { take(trust, *control); });
}

void Replacements::take(TrustAsker& trust, net::ResumableStream& control) {
  try {
    if (!trust.take_word()) {
      // Nobody passes another one any more.
      const Error why(Code::kLost, "the connection is lost, and telepad has ended");
      control.watch(-1, {});
      control_->refuse(why);
      if (pages_) pages_->refuse(why);
      return;
    }
  } catch (const Error& error) {
    if (error.code() != Code::kUnauthorised) throw;
    return;  // A session that works is not ended.
  }
  std::optional<TrustAsker::Resumption> resumption = trust.take_resumption();
  if (!resumption) return;
  std::unique_ptr<net::Stream> stream =
      std::make_unique<net::FdStream>(std::move(resumption->connection), control.name());
  const std::shared_ptr<Entrance>& entrance = resumption->pages ? pages_ : control_;
  if (entrance) stream = entrance->offer(std::move(stream), say_how_far);
  if (!stream) return;
  protocol::send_hello_refusal(*stream, protocol::OwnMachine().reader(),
                               Error(Code::kGone, "no memory follows any more"),
                               net::Deadline::now());
}

}  // namespace telefork::session
