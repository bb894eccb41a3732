#include "session/homeward.h"

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include "capture/capture.h"
#include "kernel/pidfd.h"
#include "kernel/procfs_file.h"
#include "kernel/procfs_state.h"
#include "kernel/procfs_task.h"
#include "kernel/task_flags.h"
#include "migrate/save.h"
#include "protocol/machine.h"
#include "session/image_header.h"
#include "session/memory_check.h"
#include "session/program_call.h"
#include "tracee/stub.h"

namespace telefork::session {
namespace {

using image::schema::Header;
using protocol::ReceivedMessage;
using protocol::schema::Message;
using Kind = image::schema::FileDescription::Kind;

bool has_name_at_home(image::schema::FileRef::Reader file) {
  return !file.getDeleted() && !std::string_view(file.getPath().cStr()).starts_with("/memfd:");
}

// By the ids that they have there. It runs: they come and go.
void add_other_threads(pid_t pid, std::vector<std::uint32_t>& tids) {
  try {
    for (pid_t tid : kernel::list_threads(pid)) {
      if (tid == pid) continue;
      tids.push_back(static_cast<std::uint32_t>(kernel::read_status(tid).ns_pids.back()));
    }
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
  }
}

// In a user namespace of the keeper's, which is that of all of them, capabilities are worth nothing
// elsewhere.
bool has_own_users(pid_t guest) {
  return kernel::read_ns_link(guest, "user") != kernel::read_ns_link(::getpid(), "user");
}

// Has come of the guest and has lost it: others may have ended, or just begun, since all were
// listed.
bool is_orphan(pid_t pid, pid_t guest) {
  try {
    const kernel::Stat stat = kernel::read_stat(pid);
    if (stat.state == 'Z' || (stat.flags & kernel::kPfExiting) != 0) return false;
    pid_t parent = stat.ppid;
    while (parent != guest && parent > 1) parent = kernel::read_stat(parent).ppid;
    return parent != guest;
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
    return false;
  }
}

bool shares_memory(const capture::TreeSurvey& tree) {
  std::set<std::uint64_t> known;
  for (const capture::Survey& member : tree.members) {
    std::set<std::uint64_t> own;
    for (const capture::Mapping& mapping : member.mappings) {
      if (mapping.kind == image::schema::Vma::Kind::SHARED_ANONYMOUS && !mapping.segment) {
        own.insert(mapping.shared_id);
      }
    }
    for (const std::uint64_t id : own) {
      if (!known.insert(id).second) return true;
    }
  }
  return false;
}

// What lies in a pipe, which it leaves there. (capture/pipes.cc keeps packets apart; there are none
// in the keeper's.)
std::vector<std::byte> copy_content(const UniqueFd& pipe) {
  int count = 0;
  if (::ioctl(pipe.get(), FIONREAD, &count) != 0) throw_errno("asking what lies in its stdin");
  std::vector<std::byte> bytes(static_cast<std::size_t>(count));
  if (bytes.empty()) return bytes;
  auto [read_end, write_end] = make_pipe(O_NONBLOCK);
  ::fcntl(write_end.get(), F_SETPIPE_SZ, ::fcntl(pipe.get(), F_GETPIPE_SZ));
  const ssize_t copied = ::tee(pipe.get(), write_end.get(), bytes.size(), SPLICE_F_NONBLOCK);
  if (copied < 0) throw_errno("copying what lies in its stdin");
  std::size_t taken = 0;
  while (taken < static_cast<std::size_t>(copied)) {
    const ssize_t n = ::read(read_end.get(), bytes.data() + taken, bytes.size() - taken);
    if (n <= 0) throw_errno("reading what lies in its stdin");
    taken += static_cast<std::size_t>(n);
  }
  if (taken != bytes.size()) {
    throw Error(Code::kResources,
                "what lies in its stdin cannot all be copied by this user "
                "(pipe(7), pipe-user-pages-soft)");
  }
  return bytes;
}

// Of one that has ended since it was looked at nothing is told.
std::string root_of(pid_t pid) {
  try {
    return kernel::read_root_link(pid);
  } catch (const Error& error) {
    if (error.code() != Code::kGone && error.error() != ENOENT) throw;
    return "";
  }
}

}  // namespace

bool Homeward::run() {
  settings_.steps.reach(Step::kCalledHome);
  link_.set_bystander([this](const ReceivedMessage& message) { return on_other_message(message); });
  bool gone = false;
  try {
    offer();
    await(Message::COME);
    freeze();
    drain_output();
    send_unread();
    send_image();
    await(Message::READY);
    settings_.kill();
    gone = true;
    settings_.steps.reach(Step::kGivenUp);
    link_.send([](Message::Builder message) { message.setGo(); });
    link_.flush();
    settings_.steps.reach(Step::kGoSent);
  } catch (const Error& error) {
    link_.set_bystander({});
    if (gone || error.code() == Code::kLost || link_.other_end_failed()) throw;
    let_go_on();
    // What is missing of it then is no reason.
    refuse(has_ended(settings_.guest) ? Error(Code::kGone, "the process has ended") : error);
    return false;
  }
  link_.set_bystander({});
  return true;
}

void Homeward::refuse(const Error& error) {
  link_.send([&](Message::Builder message) {
    if (in_image_ && !told_no_) {
      message.setAbort(error.text());
    } else {
      protocol::encode_failure(error, message.initStay());
    }
  });
}

capture::SurveyOptions Homeward::survey_options() {
  capture::SurveyOptions options;
  options.purpose = capture::Purpose::kHome;
  options.own_namespaces = settings_.namespaces;
  options.streams = settings_.streams;
  // Of what has no name at home the only one is here.
  options.originals = [this](std::uint64_t device, std::uint64_t inode) {
    auto original = settings_.files.find(device, inode);
    if (original && !has_name_at_home(*original)) original.reset();
    return original;
  };
  return options;
}

// What is here is its deputy then.
void Homeward::check_moved_on(const std::vector<pid_t>& tree) const {
  for (const SessionInfo& info : list_sessions({settings_.registry})) {
    if (info.role != "away" || std::find(tree.begin(), tree.end(), info.pid) == tree.end())
      continue;
    throw Error(Code::kRefused,
                fmt::format("process {0}: it has gone on from there to {1}: `telefork home {0}` "
                            "there brings it back so far",
                            info.pid, info.node));
  }
  if (!settings_.has_lent_any()) return;
  throw Error(Code::kRefused,
              fmt::format("process {}: some of what has come of it is on its way on from there; "
                          "try again",
                          settings_.guest));
}

// An orphan, of which nobody of the tree is the parent.
void Homeward::check_others(const std::vector<pid_t>& tree) const {
  for (const pid_t pid : settings_.list_all()) {
    if (std::find(tree.begin(), tree.end(), pid) != tree.end()) continue;
    if (!is_orphan(pid, settings_.guest)) continue;
    throw Error(
        Code::kRefused,
        fmt::format("process {}, which was begun there and whose parent has ended, is there "
                    "still: it would stay behind; let it end first",
                    pid));
  }
}

// They are common to all, and so the first one's.
void Homeward::settle_files(capture::TreeSurvey& tree) {
  capture::throw_refusals(tree.refusals);
  files_.settle(tree.first(), link_);
  capture::throw_refusals(tree.first().refusals);
}

// All that can be known while it runs.
void Homeward::offer() {
  check_moved_on(capture::list_tree(settings_.guest));
  capture::TreeSurvey tree = migrate::survey_tree_by_pid(settings_.guest, survey_options());
  settle_files(tree);
  check_others(capture::list_tree(settings_.guest));
  send_offer(tree);
  looked_ = std::move(tree.first());
}

void Homeward::send_offer(const capture::TreeSurvey& tree) {
  std::vector<std::uint32_t> tids;
  for (const capture::Survey& member : tree.members) add_other_threads(member.pid, tids);
  std::vector<std::uint32_t> ended;
  for (const capture::EndedMember& one : tree.ended) {
    ended.push_back(static_cast<std::uint32_t>(one.status.ns_tgids.back()));
  }
  const bool own_users = has_own_users(settings_.guest);
  auto permitted_of = [own_users](const capture::Survey& member) {
    return own_users ? 0 : member.status.cap_permitted;
  };
  link_.send([&](Message::Builder message) {
    const kernel::Status& first = tree.first().status;
    auto offer = message.initOffer();
    offer.setTids({tids.data(), tids.size()});
    offer.setPermitted(permitted_of(tree.first()));
    offer.setUids({first.uids.data(), first.uids.size()});
    offer.setGids({first.gids.data(), first.gids.size()});
    offer.setRoot(root_of(tree.first().pid));
    offer.setThreads(kernel::list_threads(settings_.guest).size() > 1);
    offer.setSharesMemory(shares_memory(tree));
    say_wanted_memory(tree, offer.initMemory());
    offer.setEnded({ended.data(), ended.size()});
    auto members = offer.initMembers(static_cast<unsigned>(tree.members.size() - 1));
    for (unsigned i = 0; i < members.size(); ++i) {
      const capture::Survey& member = tree.members[i + 1];
      members[i].setPid(static_cast<std::uint32_t>(member.status.ns_tgids.back()));
      members[i].setPermitted(permitted_of(member));
      members[i].setUids({member.status.uids.data(), member.status.uids.size()});
      members[i].setGids({member.status.gids.data(), member.status.gids.size()});
      members[i].setRoot(root_of(member.pid));
      members[i].setThreads(member.status.threads > 1);
    }
  });
}

void Homeward::freeze() {
  frozen_.emplace(tracee::FrozenTree::freeze(settings_.guest, settings_.ways));
  for (tracee::FrozenProcess& process : frozen_->processes()) process.suspend_seccomp();
  settings_.steps.reach(Step::kHeld);
  settings_.tell_changes();
  tree_ = capture::survey_tree(settings_.guest, survey_options(), std::move(looked_));
  std::vector<pid_t> pids;
  for (tracee::FrozenProcess& process : frozen_->processes()) {
    pids.push_back(process.pid());
    if (process.leader().in_group_stop()) tree_.stopped.insert(process.pid());
  }
  settle_files(tree_);
  check_others(pids);
}

void Homeward::let_go_on() {
  if (frozen_) frozen_->thaw(settings_.ways);
  frozen_.reset();
}

// Home writes it before the process goes on, which may write to the same places.
void Homeward::drain_output() {
  pump_.begin_drain();
  while (!pump_.drained()) poll_once();
}

// Of a pipe or terminal home cannot put back what it has read.
std::vector<std::byte> Homeward::read_unread() const {
  for (const capture::Description& description : tree_.first().descriptions) {
    const bool is_stdin = description.kind == Kind::STDIO && description.stream == 0;
    // Not one that is on its way through a socket alone.
    if (!is_stdin || description.pid == ::getpid()) continue;
    UniqueFd pipe = kernel::take_fd(description.pid, description.fd);
    if (!pipe) throw Error(Code::kGone, "its stdin has just been closed");
    std::vector<std::byte> bytes = copy_content(pipe);
    const std::vector<std::byte> behind = pump_.undelivered_input();
    bytes.insert(bytes.end(), behind.begin(), behind.end());
    return bytes;
  }
  return {};
}

void Homeward::send_unread() {
  const std::vector<std::byte> bytes = read_unread();
  if (bytes.empty()) return;
  link_.send([&](Message::Builder message) {
    message.setUnread({reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()});
  });
}

void Homeward::send_image() {
  link_.do_without_bulk();
  link_.send([](Message::Builder message) { message.setReturning(); });
  in_image_ = true;
  image::Writer writer(link_.record_sink(), link_.bulk_sink());
  protocol::OwnMachine here;
  write_header(Header::Purpose::MOVE, here.reader(), writer);
  capture::write_tree(tree_, writer);
  for (std::size_t i = 0; i < tree_.members.size(); ++i) send_member(i, writer);
  writer.end();
  link_.send([](Message::Builder message) { message.setSentHome(); });
  link_.flush();
  in_image_ = false;
  settings_.steps.reach(Step::kSentHome);
}

void Homeward::send_member(std::size_t member, image::Writer& writer) {
  const capture::Survey& survey = tree_.members[member];
  const capture::CommonPart common(tree_, member);
  tracee::Stub stub(frozen_->of(survey.pid).leader(), survey.pid, {});
  capture::CaptureSettings settings;
  settings.pagemap = settings_.pagemap;
  settings = capture::settings_of(tree_, member, std::move(settings));
  capture::Capture capture(survey, frozen_->of(survey.pid), stub, settings);
  capture.write_metadata(writer, [this] { link_.flush_some(); });
  stub.remove();
  capture.write_pages(writer);
}

void Homeward::poll_once() {
  std::vector<pollfd> entries = link_.poll_entries();
  pump_.add_interest(entries);
  const auto deadline =
      link_.is_ready_now() ? net::Deadline::now() : net::Deadline::in(std::chrono::seconds(1));
  net::poll_until(entries, deadline);
  pump_.on_ready(entries);
  while (auto message = link_.try_receive()) {
    if (!on_other_message(*message)) protocol::throw_unexpected(*message, "credit");
  }
  settings_.hold_lease();
}

// The pump stands still, but for what home has to say to it.
void Homeward::await(Message::Which expected) {
  for (;;) {
    while (auto message = link_.try_receive()) {
      if (on_other_message(*message)) continue;
      if ((*message)->which() == expected) return;
      protocol::throw_unexpected(*message, protocol::message_name(expected));
    }
    std::vector<pollfd> entries = link_.poll_entries();
    net::poll_until(entries, link_.is_ready_now() ? net::Deadline::now()
                                                  : net::Deadline::in(std::chrono::seconds(1)));
    settings_.hold_lease();
  }
}

bool Homeward::on_other_message(const ReceivedMessage& message) {
  if (pump_.on_message(message)) return true;
  if (message->which() != Message::STAY) return false;
  told_no_ = true;
  throw protocol::decode_failure(message->getStay(), link_.node());
}

}  // namespace telefork::session
