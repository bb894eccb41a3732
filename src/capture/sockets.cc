// Sockets, and what unix ones have not read.
#include <vector>

#include <sys/socket.h>

#include "base/error.h"
#include "capture/capture.h"
#include "capture/unread.h"
#include "kernel/pidfd.h"
#include "kernel/socket_options.h"

namespace telefork::capture {
namespace {

using Kind = image::schema::FileDescription::Kind;

void fill_options(const UniqueFd& socket, image::schema::Socket::Builder record) {
  const std::vector<kernel::SocketOption> options = kernel::read_socket_options(socket);
  auto list = record.initOptions(static_cast<unsigned>(options.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    list[i].setLevel(options[i].level);
    list[i].setName(options[i].name);
    list[i].setValue(::capnp::Data::Reader(
        reinterpret_cast<const kj::byte*>(options[i].value.data()), options[i].value.size()));
  }
}

void fill_sent_along(const SocketObject& object, image::schema::Socket::Builder record) {
  auto list = record.initSentAlong(static_cast<unsigned>(object.sent_along.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    const SentAlong& sent = object.sent_along[i];
    list[i].setMessage(sent.message);
    auto descriptions = list[i].initDescriptions(static_cast<unsigned>(sent.descriptions.size()));
    for (unsigned k = 0; k < descriptions.size(); ++k) {
      descriptions.set(k, static_cast<std::uint32_t>(sent.descriptions[k]));
    }
  }
}

}  // namespace

void Capture::fill_socket(const Description& description, image::schema::Socket::Builder record,
                          image::RecordSink& sink) {
  const SocketObject& object = survey_.sockets[description.object];
  UniqueFd socket = kernel::take_fd(description.pid, description.fd);
  if (!socket) throw Error(Code::kGone, object.link + " has just been closed");
  record.setFamily(object.family);
  record.setType(object.type);
  record.setProtocol(object.protocol);
  if (object.peer_index) record.setPeer(static_cast<std::uint32_t>(*object.peer_index + 1));
  record.setPaired(object.paired);
  record.setShutdown(object.shutdown);
  record.setListening(object.listening);
  record.setBacklog(object.backlog);
  record.setMode(object.mode);
  record.setRoot(object.root);
  record.setAddress(::capnp::Data::Reader(reinterpret_cast<const kj::byte*>(object.address.data()),
                                          object.address.size()));
  auto waiting = record.initWaiting(static_cast<unsigned>(object.waiting.size()));
  for (unsigned i = 0; i < waiting.size(); ++i) {
    waiting.set(i, static_cast<std::uint32_t>(object.waiting[i]));
  }
  fill_options(socket, record);
  if (object.family != AF_UNIX) return;
  const std::vector<UnreadMessage> messages =
      read_unread(socket, object.link, object.type, object.shutdown);
  if (messages.empty()) return;
  std::vector<std::byte> bytes;
  auto sizes = record.initMessages(static_cast<unsigned>(messages.size()));
  for (unsigned i = 0; i < sizes.size(); ++i) {
    sizes.set(i, static_cast<std::uint32_t>(messages[i].bytes.size()));
    bytes.insert(bytes.end(), messages[i].bytes.begin(), messages[i].bytes.end());
  }
  record.setContentId(write_bytes(bytes, sink));
  fill_sent_along(object, record);
}

void Capture::write_sockets(image::RecordSink& sink) {
  if (survey_.sockets.empty()) return;
  ::capnp::MallocMessageBuilder message;
  auto list = message.initRoot<image::schema::Sockets>().initSockets(
      static_cast<unsigned>(survey_.sockets.size()));
  for (const Description& description : survey_.descriptions) {
    if (description.kind != Kind::SOCKET) continue;
    fill_socket(description, list[static_cast<unsigned>(description.object)], sink);
  }
  sink.write(image::RecordType::kSockets, message);
}

}  // namespace telefork::capture
