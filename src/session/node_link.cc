#include "session/node_link.h"

#include <array>

#include <sys/prctl.h>
#include <sys/socket.h>

#include "base/error.h"
#include "net/connect.h"
#include "net/fd_stream.h"
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
      here.reader(), [](protocol::schema::Hello::Builder) {},
      net::Deadline::in(protocol::kHandshakePatience));
}

}  // namespace

protocol::OpenedLink open_node(const net::NodeAddress& node, const protocol::OwnMachine& here,
                               const Programs& programs, bool cpu_force) {
  protocol::OpenedLink opened = node.kind == net::NodeAddress::Kind::kLocal
                                    ? open_private(here, programs)
                                    : protocol::open_link(
                                          node.text(), [&] { return net::connect(node); },
                                          here.reader(), [](protocol::schema::Hello::Builder) {},
                                          net::Deadline::in(protocol::kHandshakePatience));
  protocol::check_compatible(here.reader(), opened.reply->getMachine(), cpu_force);
  return opened;
}

}  // namespace telefork::session
