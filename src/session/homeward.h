// The node's side of `telefork home`: its guest, which was moved here, goes back to where its
// deputy is, with all that has come of it. The hand-over of a move in the other direction; each
// step is of all of them at once.
//
//     keeper                                             home (return_session.h)
//            <-------------------------------- callHome
//     looks at it while it runs
//     checkFiles, offer  ---------------------------->   looks whether it can have it
//            <------------------------------------ come
//     freezes it, all its output goes
//     unread, returning, records, payloads, sentHome -->  restores it in the deputy's place
//            <----------------------------------- ready  whole, stopped
//     kills it
//     go  ------------------------------------------->   only now it runs there
//
// Until `ready` either end may say `stay`, and then the guest goes on here as if nothing had been.
// The keeper answers home's with its own, behind whatever was on its way; in the middle of the
// image it says `abort` for that. Meanwhile it dies with the keeper, so that it does not run while
// home may have it whole.
//
// Owned by the keeper, whose child the guest is.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "base/error.h"
#include "capture/tree.h"
#include "image/writer.h"
#include "kernel/pagemap.h"
#include "protocol/link.h"
#include "proxy/stdio_pump.h"
#include "restore/files.h"
#include "session/file_negotiation.h"
#include "session/steps.h"
#include "tracee/frozen_tree.h"

namespace telefork::session {

class Homeward {
 public:
  // What of the guest is known to its keeper, and what that does.
  struct Settings {
    pid_t guest = 0;
    std::map<unsigned, std::uint64_t> streams;  // the inodes of its standard streams' pipes
    restore::ArrivedFiles files;                // what came for it, as home calls it
    std::string registry;                       // see registry.h; empty: none
    std::vector<std::string> namespaces;        // that were made for it: SessionInfo has them
    kernel::PageMapAbi pagemap = kernel::PageMapAbi::kEntries;
    Steps steps;
    // All that live here because of it. Who is not of its tree would stay behind.
    std::function<std::vector<pid_t>()> list_all;
    // Whether some of it is on its way on from here, or is taken up again only just now.
    std::function<bool()> has_lent_any;
    // How one of the tree is frozen, to die with this process, and how it goes on.
    tracee::FrozenTree::Ways ways;
    // All are frozen: tells home what has happened up to then.
    std::function<void()> tell_changes;
    // Says that the keeper lives, and throws when home is silent for too long; often.
    std::function<void()> hold_lease;
    // Ends it for good.
    std::function<void()> kill;
  };

  Homeward(protocol::Link& link, proxy::StdioPump& pump, Settings settings)
      : link_(link), pump_(pump), settings_(std::move(settings)) {}

  // True: it is home's, and nothing of it is left here. False: it runs on here, and home knows why.
  // Throws where the link is lost.
  bool run();

 private:
  void offer();
  void freeze();
  void drain_output();
  void send_unread();
  std::vector<std::byte> read_unread() const;
  void send_image();
  void send_offer(const capture::TreeSurvey& tree);
  void send_member(std::size_t member, image::Writer& writer);
  capture::SurveyOptions survey_options();
  void settle_files(capture::TreeSurvey& tree);
  void check_moved_on(const std::vector<pid_t>& tree) const;
  void check_others(const std::vector<pid_t>& tree) const;
  void let_go_on();
  void refuse(const Error& error);
  void poll_once();
  void await(protocol::schema::Message::Which expected);
  bool on_other_message(const protocol::ReceivedMessage& message);

  protocol::Link& link_;
  proxy::StdioPump& pump_;
  Settings settings_;
  FileNegotiation files_;
  capture::Survey looked_;  // of the first one, while it ran
  capture::TreeSurvey tree_;
  std::optional<tracee::FrozenTree> frozen_;
  bool told_no_ = false;   // by home
  bool in_image_ = false;  // home reads records
};

}  // namespace telefork::session
