#include "session/telepad.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <list>
#include <map>
#include <optional>
#include <tuple>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "net/fd_passing.h"
#include "net/fd_stream.h"
#include "net/unix_stream.h"
#include "protocol/handshake.h"
#include "protocol/machine.h"
#include "session/agent_socket.h"
#include "session/become_user.h"
#include "session/children.h"
#include "session/data_bytes.h"
#include "session/greeting.h"
#include "session/guard_channel.h"
#include "session/hosting.h"
#include "session/kept_images.h"
#include "session/registry.h"
#include "session/signal_fd.h"
#include "session/spawn.h"
#include "session/tls_entrance.h"
#include "session/trust_channel.h"

namespace telefork::session {
namespace {

using namespace std::chrono_literals;
using Clock = net::Deadline::Clock;
using Role = protocol::schema::Hello::Role;

constexpr std::size_t kMaxGreeting = 1000;  // connections that have not said hello yet
// Of a session by key: its bulk connection, and a page connection.
constexpr unsigned kMostJoins = 2;
// How soon something is tried again for which there was no descriptor or memory.
constexpr auto kRetryAfter = 200ms;

struct Session {
  pid_t keeper;
  User user;         // that it is
  UniqueFd channel;  // to the keeper, for its bulk connection; of kTls also trust_channel.h's
  GuardedFds guarded;
  std::optional<net::PublicKey> key;  // of kTls
  std::vector<std::byte> token;
  std::vector<std::byte> join_id;  // of kTls
  std::vector<std::byte> join_secret;
  bool resumes = false;  // of kTls: its connections may be made anew
  unsigned joins = 0;    // of kTls
  // Names (Prepare.keep): of what it is about to bring, and of what it waits for.
  std::vector<std::byte> keeps_soon = {};
  std::vector<std::byte> wants_kept = {};
  bool has_asked = false;  // for the only time
};

// Somebody waits to hear that nothing is left of a session.
struct FenceRequest {
  UniqueFd connection;
  std::vector<std::byte> token;
};

// The other half is for sessions.
std::size_t half_of_the_descriptors() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur / 2;
}

class Telepad {
 public:
  explicit Telepad(TelepadSettings settings)
      : settings_(std::move(settings)),
        signals_({SIGCHLD, SIGTERM, SIGINT}),
        entrance_({settings_.listen, settings_.keys, settings_.keys_are_default,
                   settings_.programs.greeter}),
        kept_(settings_.keep) {
    // Ahead of whoever waits for it to listen.
    if (!settings_.listen.empty()) watch_keys();
    if (!settings_.socket.empty()) {
      listener_.emplace(net::listen_unix(settings_.socket, settings_.socket_mode));
      spdlog::info("listening on {}", settings_.socket);
    }
    for (UniqueFd& connection : settings_.connections) greet(std::move(connection));
    settings_.connections.clear();
    if (settings_.input) greet_stdio();
  }

  void run() {
    // Nobody else would kill the orphans.
    while (children_.has_orphans() ||
           (!ended_ && (listens() || !greetings_.empty() || !sessions_.empty()))) {
      poll_once();
    }
  }

 private:
  void poll_once();
  net::Deadline next_turn() const;
  void accept_all();
  void make_room();
  bool listens() const { return listener_ || !settings_.listen.empty(); }
  void greet(UniqueFd fd);
  void greet_stdio();
  void greet_arrival(TlsEntrance::Arrival arrival);
  void serve_tls_join(TlsEntrance::Join join);
  void serve_entrance();
  void watch_keys();
  void on_keys_changed();
  void answer_about_keys();
  // True when the connection has been dealt with.
  bool advance(Greeting& greeting);
  void serve(Greeting& greeting);
  void serve_session(const Greeting& greeting, bool resumes, net::Stream& stream, UniqueFd control,
                     UniqueFd out);
  void serve_resumption(const Greeting& greeting, const protocol::ReceivedHello& hello,
                        int connection);
  void fill_welcome(const Session& session, protocol::schema::HelloReply::Builder reply) const;
  void serve_join(const protocol::ReceivedHello& hello, net::Stream& stream, int connection);
  void serve_fence(const protocol::ReceivedHello& hello, UniqueFd connection);
  void answer_fences();
  std::list<Session>::iterator find_session(std::span<const std::byte> token);
  void start_agent(Greeting& greeting);
  pid_t start_as(const User& user, Spawn& what);
  static User user_of(const Greeting& greeting, int connection);
  std::string make_registry_of(const User& user) const;
  void reap();
  bool keeps() const { return listens() && kept_.keeps(); }
  void serve_keeper(Session& session);
  void on_keep_word(Session& session, GuardedFds::KeepWord word);
  void answer_about_kept(Session& session);
  static KeptImages::Owner owner_of(const Session& session, std::vector<std::byte> name) {
    return {session.user.uid, session.key, std::move(name)};
  }

  TelepadSettings settings_;
  SignalFd signals_;
  Children children_;
  protocol::OwnMachine machine_;
  std::optional<net::UnixListener> listener_;
  TlsEntrance entrance_;
  std::list<Greeting> greetings_;
  KeptImages kept_;
  UniqueFd keys_watch_;  // an inotify, readable when trusted_keys may have changed
  const std::size_t max_greetings_ = std::min(kMaxGreeting, half_of_the_descriptors());
  std::list<Session> sessions_;
  std::vector<GuardedFds> guarded_;          // of keepers that have ended
  std::map<pid_t, std::string> registries_;  // of keepers and agents
  std::list<FenceRequest> fences_;
  // Goes with each token: whoever asks another telepad than it had, which knows nothing of the
  // session, is told so.
  std::vector<std::byte> identity_ = protocol::make_token();
  std::optional<Clock::time_point> accept_again_;  // there was no descriptor for a connection
  bool ended_ = false;
};

void Telepad::greet(UniqueFd fd) {
  uid_t uid = net::peer_credentials(fd.get()).uid;
  greetings_.emplace_back(std::move(fd), Via::kSocket, uid, fmt::format("user {}", uid));
}

void Telepad::greet_stdio() {
  greetings_.emplace_back(std::move(settings_.input), Via::kStdio, ::geteuid(), "stdio");
  greetings_.back().out = std::move(settings_.output);
}

void Telepad::greet_arrival(TlsEntrance::Arrival arrival) {
  if (arrival.refusal) {
    spdlog::warn("{}: {}", arrival.who, arrival.refusal->text());
    net::FdStream stream(std::move(arrival.connection), arrival.who);
    protocol::send_hello_refusal(stream, machine_.reader(), *arrival.refusal, net::Deadline::now());
    return;
  }
  greetings_.emplace_back(std::move(arrival.connection), Via::kTls, arrival.uid,
                          fmt::format("user {} ({})", arrival.uid, arrival.who));
  greetings_.back().key = arrival.key;
}

// Sessions are told at once, so that one that waits for its task ends before it gets one. Without
// the watch they are refused when they ask.
void Telepad::watch_keys() {
  keys_watch_.reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  constexpr auto kChanges = IN_MOVED_TO | IN_MOVED_FROM | IN_CLOSE_WRITE | IN_DELETE;
  if (keys_watch_ && ::inotify_add_watch(keys_watch_.get(), settings_.keys.c_str(), kChanges) >= 0)
    return;
  spdlog::warn("changes of the keys in {} are not seen at once: {}", settings_.keys,
               std::strerror(errno));
  keys_watch_.reset();
}

void Telepad::on_keys_changed() {
  if (!keys_watch_) return;
  alignas(inotify_event) std::array<char, 4096> events;
  bool changed = false;
  while (::read(keys_watch_.get(), events.data(), events.size()) > 0) changed = true;
  if (!changed) return;
  for (const Session& session : sessions_) {
    if (!session.key || !session.channel) continue;
    auto why = entrance_.refuse_key(*session.key, session.user.uid);
    if (why) TrustChannel::send_verdict(session.channel.get(), why);
  }
}

void Telepad::answer_about_keys() {
  for (Session& session : sessions_) {
    if (!session.key || !session.channel) continue;
    bool asked = false;
    const int channel = session.channel.get();
    if (!TrustChannel::try_take_question(channel, asked)) {
      session.channel.reset();
    } else if (asked) {
      TrustChannel::send_verdict(channel, entrance_.refuse_key(*session.key, session.user.uid));
    }
  }
}

// The keeper itself proves the secret; who only knows the id gets nowhere.
void Telepad::serve_tls_join(TlsEntrance::Join join) {
  auto session = std::find_if(sessions_.begin(), sessions_.end(), [&](const Session& s) {
    return protocol::same_token(s.join_id, join.id);
  });
  if (session == sessions_.end() || !session->channel || session->joins == kMostJoins) {
    spdlog::warn("{}: there is no session that it could join", join.who);
    return;
  }
  int fds[] = {join.connection.get()};
  try {
    net::send_fds(session->channel.get(), session->join_secret, fds);
  } catch (const Error& error) {
    spdlog::warn("{}: {}", join.who, error.text());
  }
  ++session->joins;
}

void Telepad::serve_entrance() {
  entrance_.on_ready();
  for (; !entrance_.arrivals().empty(); entrance_.arrivals().pop_front()) {
    greet_arrival(std::move(entrance_.arrivals().front()));
  }
  for (; !entrance_.joins().empty(); entrance_.joins().pop_front()) {
    serve_tls_join(std::move(entrance_.joins().front()));
  }
}

// Of too many that say nothing, the oldest of the user who has the most goes.
void Telepad::make_room() {
  std::map<uid_t, std::size_t> counts;
  for (const Greeting& greeting : greetings_) {
    if (greeting.via == Via::kSocket) ++counts[greeting.uid];
  }
  auto most = std::max_element(counts.begin(), counts.end(),
                               [](auto& a, auto& b) { return a.second < b.second; });
  if (most == counts.end() || greetings_.size() <= max_greetings_) return;
  auto oldest = std::find_if(greetings_.begin(), greetings_.end(), [&](const Greeting& greeting) {
    return greeting.via == Via::kSocket && greeting.uid == most->first;
  });
  spdlog::warn("a connection of {}: others need its place, and it says nothing", oldest->who);
  greetings_.erase(oldest);
}

// Whoever connects waits, while there is no descriptor for him, until others have gone.
void Telepad::accept_all() {
  if (accept_again_ && Clock::now() < *accept_again_) return;
  accept_again_.reset();
  try {
    // Not all at once: who has just come is to be heard before he counts as silent.
    for (std::size_t accepted = 0; accepted < max_greetings_ / 2; ++accepted) {
      UniqueFd fd = listener_->try_accept();
      if (!fd) return;
      greet(std::move(fd));
      make_room();
    }
  } catch (const Error& error) {
    spdlog::error("{}", error.text());
    accept_again_ = Clock::now() + kRetryAfter;
  }
}

net::Deadline Telepad::next_turn() const {
  std::optional<Clock::time_point> next = accept_again_;
  if (auto turn = entrance_.next_turn()) next = next ? std::min(*next, *turn) : turn;
  if (children_.has_orphans()) next = Clock::now() + kRetryAfter;
  if (auto turn = kept_.next_turn()) next = next ? std::min(*next, *turn) : turn;
  for (const Greeting& greeting : greetings_) {
    next = next ? std::min(*next, greeting.deadline()) : greeting.deadline();
  }
  return next ? net::Deadline::at(*next) : net::Deadline::never();
}

void Telepad::poll_once() {
  std::vector<pollfd> entries = {{signals_.fd(), POLLIN, 0}};
  if (listener_ && !accept_again_) entries.push_back({listener_->fd(), POLLIN, 0});
  for (const Greeting& greeting : greetings_) entries.push_back({greeting.fd.get(), POLLIN, 0});
  entrance_.add_interest(entries);
  if (keys_watch_) entries.push_back({keys_watch_.get(), POLLIN, 0});
  for (const Session& session : sessions_) {
    if (session.key && session.channel) entries.push_back({session.channel.get(), POLLIN, 0});
    entries.push_back({session.guarded.fd(), POLLIN, 0});
  }
  net::poll_until(entries, next_turn());
  while (auto signal = signals_.try_read()) {
    if (signal->ssi_signo != SIGCHLD) ended_ = true;
  }
  for (Session& session : sessions_) serve_keeper(session);
  reap();
  kept_.tidy();
  on_keys_changed();
  answer_about_keys();
  if (listener_) accept_all();
  serve_entrance();
  for (auto greeting = greetings_.begin(); greeting != greetings_.end();) {
    bool done = true;
    try {
      done = advance(*greeting);
    } catch (const Error& error) {
      spdlog::warn("a connection of {}: {}", greeting->who, error.text());
    }
    greeting = done ? greetings_.erase(greeting) : std::next(greeting);
  }
  // Last: there may be nothing left to wait for when one asks.
  answer_fences();
}

void Telepad::serve_keeper(Session& session) {
  session.guarded.take();
  for (GuardedFds::KeepWord& word : session.guarded.take_keep_words()) {
    on_keep_word(session, std::move(word));
  }
}

void Telepad::on_keep_word(Session& session, GuardedFds::KeepWord word) {
  if (word.word == kKeepSoon) {
    session.keeps_soon = std::move(word.name);
  } else if (word.word == kTakeKept && !std::exchange(session.has_asked, true)) {
    session.wants_kept = std::move(word.name);
    answer_about_kept(session);
  } else if (word.word == kKeep && word.file && keeps()) {
    session.keeps_soon.clear();
    kept_.put(owner_of(session, std::move(word.name)), std::move(word.file));
    for (Session& other : sessions_) answer_about_kept(other);
  }
}

// What is about to come is waited for.
void Telepad::answer_about_kept(Session& session) {
  if (session.wants_kept.empty()) return;
  const KeptImages::Owner owner = owner_of(session, session.wants_kept);
  UniqueFd file = kept_.take(owner);
  const bool comes = std::any_of(sessions_.begin(), sessions_.end(), [&](const Session& other) {
    return !other.keeps_soon.empty() && owner_of(other, other.keeps_soon) == owner;
  });
  if (!file && comes) return;
  session.wants_kept.clear();
  session.guarded.answer(file);
}

bool Telepad::advance(Greeting& greeting) {
  switch (greeting.advance()) {
    case Greeting::Progress::kWaits:
      return false;
    case Greeting::Progress::kProgram:
      start_agent(greeting);
      return true;
    case Greeting::Progress::kHello:
      serve(greeting);
      return true;
  }
  return true;
}

void Telepad::serve(Greeting& greeting) {
  protocol::ReceivedHello hello = greeting.hello();
  int connection = greeting.fd.get();
  UniqueFd control = greeting.fd.duplicate();
  UniqueFd out = greeting.out ? greeting.out.duplicate() : UniqueFd();
  net::FdStream stream =
      out ? net::FdStream(std::move(greeting.fd), std::move(greeting.out), greeting.who)
          : net::FdStream(std::move(greeting.fd), greeting.who);
  net::Deadline deadline = net::Deadline::in(protocol::kHandshakePatience);
  try {
    protocol::check_hello(*hello, machine_.reader());
    switch (hello->getRole()) {
      case Role::SESSION:
        serve_session(greeting, hello->getResumes(), stream, std::move(control), std::move(out));
        return;
      case Role::RESUME:
        serve_resumption(greeting, hello, connection);
        return;
      case Role::JOIN:
        serve_join(hello, stream, connection);
        return;
      case Role::QUERY:
        protocol::send_hello_reply(stream, machine_.reader(), {}, deadline);
        return;
      case Role::FENCE:
        serve_fence(hello, std::move(control));
        return;
    }
    throw Error(Code::kRefused, "it asks for what this telepad does not know");
  } catch (const Error& error) {
    protocol::send_hello_refusal(stream, machine_.reader(), error, deadline);
    throw;
  }
}

// With the groups that the peer itself has, where it is a process of this machine; who comes with a
// key has those of the account.
User Telepad::user_of(const Greeting& greeting, int connection) {
  if (greeting.uid == ::geteuid()) return {greeting.uid, ::getegid(), {}, "", ""};
  if (greeting.via != Via::kSocket) return find_user(greeting.uid);
  // It runs here already: it needs no account, and in containers often has none.
  User user = try_find_user(greeting.uid).value_or(User{greeting.uid, 0, {}, "", ""});
  user.gid = net::peer_credentials(connection).gid;
  user.groups = net::peer_groups(connection);
  return user;
}

// A keeper or agent, as whom it is to be: a telepad of root serves every user as that user, any
// other only its own.
pid_t Telepad::start_as(const User& user, Spawn& what) {
  std::string registry = settings_.registry;
  if (user.uid != ::geteuid()) {
    if (::geteuid() != 0) {
      throw Error(Code::kUnauthorised,
                  fmt::format("this telepad serves user {} only", ::geteuid()));
    }
    registry = make_registry_of(user);
    what.environment = environment_of(user, environ);
    what.prepare = [user] { return become_user(user); };
  }
  if (!registry.empty()) {
    what.arguments.insert(what.arguments.end(), {"--registry", registry});
  }
  pid_t pid = spawn(what);
  registries_[pid] = std::move(registry);
  return pid;
}

// Its own, in a folder where only root makes any. Without one `telefork ps` shows less.
std::string Telepad::make_registry_of(const User& user) const {
  if (settings_.user_registries.empty()) return "";
  if (::mkdir(settings_.user_registries.c_str(), 0711) == 0) {
    ::chmod(settings_.user_registries.c_str(), 0711);  // whatever the umask
  }
  std::string folder = fmt::format("{}/{}", settings_.user_registries, user.uid);
  if (::mkdir(folder.c_str(), 0700) != 0) return errno == EEXIST ? folder : "";
  if (::chown(folder.c_str(), user.uid, user.gid) == 0) return folder;
  ::rmdir(folder.c_str());
  return "";
}

void Telepad::serve_session(const Greeting& greeting, bool resumes, net::Stream& stream,
                            UniqueFd control, UniqueFd out) {
  Session session{0, {}, {}, {}, greeting.key, protocol::make_token(), {}, {}};
  Spawn what{settings_.programs.keeper, {"--control", "3"}, {control.get()}, true, {}};
  UniqueFd theirs;
  if (out) {
    what.arguments.insert(what.arguments.end(), {"--control-out", "4"});
    what.fds.push_back(out.get());
  } else {
    std::tie(session.channel, theirs) =
        make_socket_pair(greeting.via == Via::kTls ? SOCK_SEQPACKET : SOCK_STREAM);
    what.arguments.insert(what.arguments.end(), {"--telepad", "4"});
    what.fds.push_back(theirs.get());
  }
  auto [guard, guard_there] = make_socket_pair(SOCK_SEQPACKET);
  session.guarded = GuardedFds(std::move(guard));
  what.arguments.insert(what.arguments.end(), {"--guard", "5"});
  what.fds.push_back(guard_there.get());
  if (keeps()) {
    const std::uint64_t kb = kept_.most_bytes() / 1024;
    what.arguments.insert(what.arguments.end(), {"--keep-kb", std::to_string(kb)});
  }
  if (greeting.via == Via::kTls) {
    session.join_id = protocol::make_token(protocol::kJoinIdSize);
    session.join_secret = protocol::make_token(protocol::kJoinSecretSize);
    what.arguments.emplace_back("--bulk-first");
    session.resumes = resumes;
    if (resumes) what.arguments.emplace_back("--resumes");
  }
  session.user = user_of(greeting, control.get());
  session.keeper = start_as(session.user, what);
  children_.add_keeper(session.keeper);
  sessions_.push_back(std::move(session));
  protocol::send_hello_reply(
      stream, machine_.reader(), [&](auto reply) { fill_welcome(sessions_.back(), reply); },
      net::Deadline::in(protocol::kHandshakePatience));
  spdlog::info("session of {}: keeper {}", greeting.who, sessions_.back().keeper);
}

void Telepad::fill_welcome(const Session& session,
                           protocol::schema::HelloReply::Builder reply) const {
  reply.setToken(as_data(session.token));
  reply.setTelepad(as_data(identity_));
  auto user = reply.initUser();
  user.setUid(session.user.uid);
  user.setGid(session.user.gid);
  user.setChoosesIds(session.user.uid == 0 && may_set_ids());
  user.setChangesRoot(session.user.uid == 0 && may_change_root());
  say_hosting(find_hosting(session.user.uid != ::geteuid()), reply.initHosting());
  std::vector<std::string> features = {
      std::string(protocol::kFeatureTrees),     std::string(protocol::kFeatureLazy),
      std::string(protocol::kFeatureLive),      std::string(protocol::kFeatureCompress),
      std::string(protocol::kFeatureLazyTrees), std::string(protocol::kFeatureMemory)};
  // Else it ends with its last session, which who has no home does not end.
  if (listens()) features.emplace_back(protocol::kFeatureDetach);
  if (keeps()) features.emplace_back(protocol::kFeatureKeep);
  if (session.channel && session.join_id.empty()) features.emplace_back(protocol::kFeatureJoin);
  if (session.channel && !session.join_id.empty()) {
    features.emplace_back(protocol::kFeatureTlsJoin);
    reply.setJoinId(as_data(session.join_id));
    reply.setJoinSecret(as_data(session.join_secret));
  }
  if (session.resumes) features.emplace_back(protocol::kFeatureResume);
  auto list = reply.initFeatures(static_cast<unsigned>(features.size()));
  for (unsigned i = 0; i < list.size(); ++i) list.set(i, features[i]);
}

void Telepad::serve_join(const protocol::ReceivedHello& hello, net::Stream& stream,
                         int connection) {
  auto session = find_session(copy_bytes(hello->getToken()));
  if (session == sessions_.end() || !session->channel || !session->join_id.empty()) {
    throw Error(Code::kLost, "there is no session with that token: its keeper has ended");
  }
  protocol::send_hello_reply(stream, machine_.reader(), {},
                             net::Deadline::in(protocol::kHandshakePatience));
  std::byte byte{};
  int fds[] = {connection};
  net::send_fds(session->channel.get(), std::span(&byte, 1), fds);
  // One bulk connection a session.
  session->channel.reset();
}

// The keeper answers: it alone knows how far it was.
void Telepad::serve_resumption(const Greeting& greeting, const protocol::ReceivedHello& hello,
                               int connection) {
  if (!protocol::same_token(identity_, copy_bytes(hello->getTelepad()))) {
    throw Error(Code::kGone, "this telepad was started since: it does not know the session");
  }
  auto session = find_session(copy_bytes(hello->getToken()));
  if (session == sessions_.end() || !session->resumes || !session->channel ||
      greeting.key != session->key) {
    throw Error(Code::kGone, "there is no such session any more: its keeper has ended");
  }
  TrustChannel::send_resumption(session->channel.get(), connection, hello->getPages());
  spdlog::info("a connection of {} in the place of one that was lost: keeper {}", greeting.who,
               session->keeper);
}

std::list<Session>::iterator Telepad::find_session(std::span<const std::byte> token) {
  return std::find_if(sessions_.begin(), sessions_.end(),
                      [&](const Session& s) { return protocol::same_token(s.token, token); });
}

// Who has the token may end the session. One that is not there, of a telepad that is this one, is
// over; what its keeper has left may still be there.
void Telepad::serve_fence(const protocol::ReceivedHello& hello, UniqueFd connection) {
  if (!protocol::same_token(identity_, copy_bytes(hello->getTelepad()))) {
    throw Error(Code::kGone, "this telepad was started since: it does not know the session");
  }
  FenceRequest request{std::move(connection), copy_bytes(hello->getToken())};
  auto session = find_session(request.token);
  if (session != sessions_.end()) {
    spdlog::warn("killing keeper {}, which home has lost", session->keeper);
    ::kill(session->keeper, SIGKILL);
  }
  fences_.push_back(std::move(request));
}

// As long as there is any orphan nobody is answered (children.h).
void Telepad::answer_fences() {
  if (children_.has_orphans()) return;
  for (auto fence = fences_.begin(); fence != fences_.end();) {
    if (find_session(fence->token) != sessions_.end()) {
      ++fence;
      continue;
    }
    net::FdStream stream(std::move(fence->connection), "a fence");
    fence = fences_.erase(fence);
    try {
      protocol::send_hello_reply(stream, machine_.reader(), {}, net::Deadline::now());
    } catch (const Error& error) {
      spdlog::warn("{}", error.text());
    }
  }
}

void Telepad::start_agent(Greeting& greeting) {
  Spawn what{settings_.programs.agent, {"--fd", "3"}, {greeting.fd.get()}, true, {}};
  try {
    pid_t agent = start_as(user_of(greeting, greeting.fd.get()), what);
    children_.add_agent(agent);
    spdlog::info("agent {} for a program of {}", agent, greeting.who);
  } catch (Error& error) {
    error.add_context("telepad has no agent for it (TELEFORK_SOCKET= does without telepad)");
    refuse_request(greeting.fd.get(), error);
    throw;
  }
}

void Telepad::reap() {
  children_.reap([this](pid_t pid) {
    if (auto started = registries_.extract(pid)) forget_session(started.mapped(), pid);
    entrance_.on_reaped(pid);
    auto session = std::find_if(sessions_.begin(), sessions_.end(),
                                [pid](const Session& s) { return s.keeper == pid; });
    if (session == sessions_.end()) return;
    serve_keeper(*session);
    guarded_.push_back(std::move(session->guarded));
    sessions_.erase(session);
    for (Session& other : sessions_) answer_about_kept(other);
  });
  children_.kill_orphans([this](pid_t child) { return entrance_.is_greeter(child); });
  if (!children_.has_orphans()) guarded_.clear();
}

}  // namespace

void run_telepad(TelepadSettings settings) { Telepad(std::move(settings)).run(); }

}  // namespace telefork::session
