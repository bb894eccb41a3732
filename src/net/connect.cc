#include "net/connect.h"

#include "base/error.h"
#include "net/unix_stream.h"

namespace telefork::net {

std::unique_ptr<Stream> connect(const NodeAddress& address) {
  switch (address.kind) {
    case NodeAddress::Kind::kUnix:
      return connect_unix(address.path);
    case NodeAddress::Kind::kTcp:
      throw Error(Code::kUnsupported,
                  address.text() + ": TCP with TLS is not built yet; use unix:PATH or local");
    case NodeAddress::Kind::kSsh:
      throw Error(Code::kUnsupported,
                  address.text() + ": ssh is not built yet; use unix:PATH or local");
    case NodeAddress::Kind::kLocal:
      break;
  }
  throw Error(Code::kUsage, "local: there is nothing to connect to");
}

}  // namespace telefork::net
