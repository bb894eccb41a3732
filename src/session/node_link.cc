#include "session/node_link.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "base/error.h"
#include "kernel/procfs_task.h"
#include "net/compressed_stream.h"
#include "net/fd_passing.h"
#include "net/fd_stream.h"
#include "session/data_bytes.h"
#include "session/hosting.h"
#include "session/spawn.h"

namespace telefork::session {
namespace {

protocol::OpenedLink open_private(const protocol::OwnMachine& here, const Programs& programs) {
  // Whatever is left there when telepad and keeper are killed comes to this process (fence.h).
  ::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  auto [control, control_there] = make_socket_pair(SOCK_STREAM);
  auto [bulk, bulk_there] = make_socket_pair(SOCK_STREAM);
  // A double fork by setsid and its own exit would lose its pid; it is reaped by whoever reaps the
  // children of this process.
  spawn({programs.telepad,
         {"--connection", "3", "--connection", "4"},
         {control_there.get(), bulk_there.get()},
         true,
         {}});
  control_there.reset();
  bulk_there.reset();
  std::array<UniqueFd, 2> ends = {std::move(control), std::move(bulk)};
  std::size_t next = 0;
  return protocol::open_link(
      "local",
      [&]() -> std::unique_ptr<net::Stream> {
        TELEFORK_ASSERT(next < ends.size());
        return std::make_unique<net::FdStream>(std::move(ends[next++]), "local");
      },
      {}, here.reader(), [](protocol::schema::Hello::Builder) {},
      net::Deadline::in(protocol::kHandshakePatience));
}

// A node that has said nothing for so long says something twice as often (lease.h).
constexpr std::chrono::seconds kSilence(5);

Reconnector::Of connection_of(const NodeConnector& connector,
                              const protocol::schema::HelloReply::Reader& reply, bool pages) {
  return {connector, copy_bytes(reply.getToken()), copy_bytes(reply.getTelepad()), pages};
}

std::unique_ptr<net::Stream> make_resumable(std::unique_ptr<net::Stream> control,
                                            Reconnector::Of of,
                                            const std::shared_ptr<OpenedNode::Resumable>& both) {
  net::ResumableStream::Settings settings;
  settings.patience = kSilence;
  settings.on_resumed = [both] {
    if (auto pages = both->pages.lock()) pages->want();
  };
  Outliving made = outlive_losses(std::move(control), std::move(of), std::move(settings));
  both->control = made.stream->entrance();
  return std::move(made.stream);
}

protocol::OpenedLink open_by(NodeConnector& connector, const protocol::OwnMachine& here,
                             std::shared_ptr<OpenedNode::Resumable>& resumable) {
  net::Deadline deadline = net::Deadline::in(protocol::kHandshakePatience);
  return protocol::open_link(
      connector.node().text(), [&] { return connector.connect(deadline); },
      [&](const protocol::schema::HelloReply::Reader& reply) {
        return connector.connect_bulk(as_bytes(reply.getJoinId()), as_bytes(reply.getJoinSecret()),
                                      deadline);
      },
      here.reader(),
      [&](protocol::schema::Hello::Builder hello) {
        hello.setResumes(connector.node().kind == net::NodeAddress::Kind::kTcp);
      },
      deadline,
      [&](std::unique_ptr<net::Stream> control,
          const protocol::schema::HelloReply::Reader& reply) -> std::unique_ptr<net::Stream> {
        if (!protocol::offers(reply, protocol::kFeatureResume)) return control;
        resumable = std::make_shared<OpenedNode::Resumable>();
        return make_resumable(std::move(control), connection_of(connector, reply, false),
                              resumable);
      });
}

}  // namespace

namespace {

// Only what goes by TCP: nothing is slow enough elsewhere, but for ssh, whose one connection is
// another program's.
net::Compression choose_compression(const net::NodeAddress& node, const NodeAccess& access,
                                    const protocol::schema::HelloReply::Reader& reply) {
  std::string why_not;
  if (node.kind == net::NodeAddress::Kind::kSsh) {
    why_not = "ssh compresses by itself: say Compression yes in your ssh_config";
  } else if (node.kind != net::NodeAddress::Kind::kTcp) {
    why_not = "on one machine compressing takes longer than sending";
  } else if (!protocol::offers(reply, protocol::kFeatureCompress)) {
    why_not = "the telefork there is older, and knows of no compression; update it";
  }
  const bool wanted =
      access.compression == net::Compression::kLz4 || access.compression == net::Compression::kZstd;
  if (!why_not.empty() && wanted && access.compression_required) {
    throw Error(Code::kRefused, fmt::format("{}: {}", node.text(), why_not));
  }
  return why_not.empty() ? access.compression : net::Compression::kNone;
}

}  // namespace

OpenedNode open_node(const net::NodeAddress& node, const protocol::OwnMachine& here,
                     const Programs& programs, const NodeAccess& access, bool cpu_force) {
  std::shared_ptr<NodeConnector> connector;
  check_bandwidth(node, access);
  if (node.kind != net::NodeAddress::Kind::kLocal) {
    connector = std::make_shared<NodeConnector>(node, access);
  }
  std::shared_ptr<OpenedNode::Resumable> resumable;
  protocol::OpenedLink opened =
      connector ? open_by(*connector, here, resumable) : open_private(here, programs);
  protocol::check_compatible(here.reader(), opened.reply->getMachine(), cpu_force);
  const net::Compression compression = choose_compression(node, access, *opened.reply);
  return {std::move(opened.link), std::move(opened.reply), std::move(connector), compression,
          std::move(resumable)};
}

void say_compression(const OpenedNode& node, protocol::schema::Prepare::Builder prepare) {
  using Word = protocol::schema::Compression;
  switch (node.compression) {
    case net::Compression::kNone:
      return prepare.setCompression(Word::NONE);
    case net::Compression::kAutomatic:
      return prepare.setCompression(Word::AUTOMATIC);
    case net::Compression::kLz4:
      return prepare.setCompression(Word::LZ4);
    case net::Compression::kZstd:
      return prepare.setCompression(Word::ZSTD);
  }
}

void begin_compression(const OpenedNode& node) {
  if (node.compression != net::Compression::kNone) node.link->compress_bulk(node.compression);
}

namespace {

net::Compression told_compression(protocol::schema::Prepare::Reader prepare) {
  switch (prepare.getCompression()) {
    case protocol::schema::Compression::NONE:
      return net::Compression::kNone;
    case protocol::schema::Compression::AUTOMATIC:
      return net::Compression::kAutomatic;
    case protocol::schema::Compression::LZ4:
      return net::Compression::kLz4;
    case protocol::schema::Compression::ZSTD:
      return net::Compression::kZstd;
  }
  throw Error(Code::kCorrupt, "it is to be compressed in a way that is not known here");
}

}  // namespace

void take_compression(protocol::schema::Prepare::Reader prepare, protocol::Link& link,
                      std::unique_ptr<net::Stream>& pages) {
  const net::Compression compression = told_compression(prepare);
  if (compression == net::Compression::kNone) return;
  if (!link.has_bulk_stream()) throw Error(Code::kCorrupt, "nothing is there to be compressed");
  link.compress_bulk(compression);
  if (pages) pages = std::make_unique<net::CompressedStream>(std::move(pages), compression);
}

std::string why_not_lazy(const OpenedNode& node) {
  const bool joins = protocol::offers(*node.reply, protocol::kFeatureTlsJoin);
  if (node.link->bulk_fd() < 0 && !joins) {
    return "memory cannot follow over ssh, which has one connection; use mode eager";
  }
  return why_not_lazy(*node.reply);
}

namespace {

std::unique_ptr<net::Stream> connect_pages(const OpenedNode& node) {
  if (node.link->bulk_fd() < 0) {
    auto stream = node.connector->connect_bulk(as_bytes(node.reply->getJoinId()),
                                               as_bytes(node.reply->getJoinSecret()),
                                               net::Deadline::in(protocol::kHandshakePatience));
    if (node.resumable) {
      net::ResumableStream::Settings settings;
      settings.armed_with = node.resumable->control;
      Outliving made =
          outlive_losses(std::move(stream), connection_of(*node.connector, *node.reply, true),
                         std::move(settings));
      node.resumable->pages = made.reconnector;
      stream = std::move(made.stream);
    }
    if (node.compression == net::Compression::kNone) return stream;
    return std::make_unique<net::CompressedStream>(std::move(stream), node.compression);
  }
  auto [ours, theirs] = make_socket_pair(SOCK_STREAM);
  net::widen_send_buffer(ours.get());
  const std::byte byte{};
  const int fds[] = {theirs.get()};
  try {
    net::send_fds(node.link->bulk_fd(), std::span(&byte, 1), fds);
  } catch (Error& error) {
    error.add_context(node.link->node() + ": opening a connection for pages");
    throw;
  }
  return std::make_unique<net::FdStream>(std::move(ours), node.link->node());
}

}  // namespace

std::unique_ptr<net::Stream> open_page_connection(const OpenedNode& node) {
  try {
    return connect_pages(node);
  } catch (Error& error) {
    // It was reached before.
    if (error.code() == Code::kUnreachable) error.set_code(Code::kLost);
    throw;
  }
}

namespace {

// "user 0, 65534 and group 0": each once, of real, effective, saved and of the filesystem.
template <class Ids>
std::string list_ids(const Ids& ids) {
  std::vector<std::uint32_t> listed;
  std::string text;
  for (std::uint32_t id : ids) {
    if (std::find(listed.begin(), listed.end(), id) != listed.end()) continue;
    text += fmt::format("{}{}", listed.empty() ? "" : ", ", id);
    listed.push_back(id);
  }
  return text;
}

}  // namespace

void check_user(const kernel::Status& process, const OpenedNode& node) {
  if (!node.reply->hasUser()) return;  // its telepad is too old to say
  protocol::schema::User::Reader there = node.reply->getUser();
  if (there.getChoosesIds()) return;
  auto all_are = [](const auto& ids, std::uint32_t id) {
    return std::all_of(std::begin(ids), std::end(ids),
                       [id](std::uint32_t own) { return own == id; });
  };
  if (all_are(process.uids, there.getUid()) && all_are(process.gids, there.getGid())) return;
  const bool several =
      !all_are(process.uids, process.uids[0]) || !all_are(process.gids, process.gids[0]);
  const char* remedy =
      several ? "have it set real, effective and saved ids alike (setresuid(2)), or ask a telepad "
                "of root"
              : "ask as its user there (ssh://USER@HOST, or a key that stands for that user: "
                "telefork trust KEY --as USER)";
  throw Error(Code::kRefused,
              fmt::format("process {} is of user {} and group {}, and {} makes it one of user {} "
                          "and group {}: a process keeps its ids; {}",
                          process.pid, list_ids(process.uids), list_ids(process.gids),
                          node.link->node(), there.getUid(), there.getGid(), remedy));
}

void check_root(const capture::Survey& process, const OpenedNode& node) {
  if (process.changed_root.empty() || node.reply->getUser().getChangesRoot()) return;
  throw Error(
      Code::kRefused,
      fmt::format("process {} has {} as its root directory (chroot), and {} may not give it "
                  "that (it takes CAP_SYS_CHROOT); ask a telepad of root",
                  process.pid, process.changed_root, node.link->node()));
}

}  // namespace telefork::session
