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
  // Likewise, of as many as are to wait to be accepted: what has connected.
  using ConnectWaiting = std::function<std::vector<UniqueFd>(
      const UniqueFd& listener, image::schema::Socket::Reader of_listener, unsigned count)>;
  using List = ::capnp::List<image::schema::Socket>::Reader;
  // What is sent along with a message: a description of the image.
  using TakeDescription = std::function<UniqueFd(std::uint32_t)>;
  Sockets(List records, const ContentStore& contents, SocketNames& names, MakePair make_pair,
          Connect connect, ConnectWaiting connect_waiting, TakeDescription take_description,
          std::function<void(const std::string&)> warn);
  // Throws kRefused for an address that is taken here.
  UniqueFd open(image::schema::FileDescription::Reader description);

 private:
  UniqueFd make(image::schema::Socket::Reader record) const;
  void bind_to_address(image::schema::Socket::Reader record, const UniqueFd& socket) const;
  void make_pair_of(std::uint32_t index);
  const UniqueFd& get(std::uint32_t index);
  // What listens by the name that this one has; nothing where it has none.
  std::optional<std::uint32_t> listener_of(image::schema::Socket::Reader record) const;
  // Where one waits to be accepted; nothing where it does not.
  std::optional<std::uint32_t> awaited_listener_of(std::uint32_t index) const;
  void make_waiting_at(std::uint32_t listener);
  std::pair<UniqueFd, UniqueFd> make_ends(std::uint32_t index);
  // What `record` has not read, sent by the other end.
  void fill(image::schema::Socket::Reader record, const UniqueFd& sender) const;
  std::vector<UniqueFd> take_sent_along(image::schema::Socket::Reader record,
                                        std::uint32_t message) const;
  void set_options(image::schema::Socket::Reader record, const UniqueFd& socket) const;

  List records_;
  const ContentStore& contents_;
  SocketNames& names_;
  MakePair make_pair_;
  Connect connect_;
  ConnectWaiting connect_waiting_;
  TakeDescription take_description_;
  std::function<void(const std::string&)> warn_;
  std::vector<UniqueFd> made_;
};

}  // namespace telefork::restore
