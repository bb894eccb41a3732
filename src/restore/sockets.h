// Sockets with their options, and pairs with what lies in them unread.
//
//     Sockets sockets(sockets_record, contents, names, make_pair, warn);
//     UniqueFd one = sockets.open(description);           // once a description of kind socket
//
// A pair is made by the guest itself, whose ids it then bears (SO_PEERCRED, unix(7)), and is open
// here until all of it is there.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "image/image.capnp.h"
#include "restore/content_store.h"

namespace telefork::restore {

// Names of unix sockets that were made in file systems: gone again with this object, unless they
// are to stay.
class SocketNames {
 public:
  SocketNames() = default;
  SocketNames(const SocketNames&) = delete;
  SocketNames& operator=(const SocketNames&) = delete;
  ~SocketNames();
  void add(std::string path) { paths_.push_back(std::move(path)); }
  void keep() { paths_.clear(); }

 private:
  std::vector<std::string> paths_;
};

class Sockets {
 public:
  using MakePair = std::function<std::pair<UniqueFd, UniqueFd>(int type, int protocol)>;
  // By the name of what listens: what has connected, and what was accepted.
  using Connect = std::function<std::pair<UniqueFd, UniqueFd>(
      const UniqueFd& listener, image::schema::Socket::Reader of_listener)>;
  using List = ::capnp::List<image::schema::Socket>::Reader;
  Sockets(List records, const ContentStore& contents, SocketNames& names, MakePair make_pair,
          Connect connect, std::function<void(const std::string&)> warn);
  // Throws kRefused for an address that is taken here.
  UniqueFd open(image::schema::FileDescription::Reader description);

 private:
  UniqueFd make(image::schema::Socket::Reader record) const;
  void bind_to_address(image::schema::Socket::Reader record, const UniqueFd& socket) const;
  void make_pair_of(std::uint32_t index);
  const UniqueFd& get(std::uint32_t index);
  // What listens by the name that this one has; nothing where it has none.
  std::optional<std::uint32_t> listener_of(image::schema::Socket::Reader record) const;
  std::pair<UniqueFd, UniqueFd> make_ends(std::uint32_t index);
  // What `record` has not read, sent by the other end.
  void fill(image::schema::Socket::Reader record, const UniqueFd& sender) const;
  void set_options(image::schema::Socket::Reader record, const UniqueFd& socket) const;

  List records_;
  const ContentStore& contents_;
  SocketNames& names_;
  MakePair make_pair_;
  Connect connect_;
  std::function<void(const std::string&)> warn_;
  std::vector<UniqueFd> made_;
};

}  // namespace telefork::restore
