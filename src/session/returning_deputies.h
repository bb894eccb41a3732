// The deputies of those that are on their way home (return_session.h): how each fares until its
// process takes its place, and how it comes back to it.
//
//     ReturningDeputies deputies(list, programs);
//     deputies.look();  deputies.throw_if_disturbed();     // at every turn
//     deputies.obey(status);                               // of one that is away
//     deputies.get_ready();  while (!deputies.ready()) ...
//     settings.find_blank = [&](pid_t pid) { return deputies.take(pid); };
//     ...
//     deputies.give_back(&restorer);                       // each is in its place again
//
// Owned by the thread that watches them.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/types.h>

#include "base/unique_fd.h"
#include "deputy/supervisor.h"
#include "protocol/message.h"
#include "restore/tree_restorer.h"
#include "session/deputy_ends.h"
#include "session/deputy_exchange.h"
#include "session/programs.h"

namespace telefork::session {

class ReturningDeputies {
 public:
  struct Deputy {
    pid_t pid;
    pid_t own_pid;  // as it sees itself, and its process there is to see itself
    std::optional<deputy::Supervisor>* supervisor;
    const UniqueFd* standard_error;  // that it has too; null: none
  };
  // The first one is that of the process that was asked for. All must outlive it.
  ReturningDeputies(const std::vector<Deputy>& deputies, const Programs& programs);

  const Deputy& first() const { return all_.front()->deputy; }
  bool several() const { return all_.size() > 1; }
  void add_interest(std::vector<pollfd>& entries) const;
  // Takes up what has happened to them.
  void look();
  // One was killed (kGone of the first one), or stopped by somebody here.
  void throw_if_disturbed() const;
  bool first_is_gone() const { return all_.front()->gone; }
  // Numbers of processes are those as they see themselves from here on, where nothing else is said.
  // How one of them that is not the first fares there. False: it has no deputy.
  bool obey(protocol::schema::Status::Reader status);

  // They are about to be taken: what is stopped goes on.
  void get_ready();
  bool ready() const;
  // Whether one of them stands for the process, or did until it was taken.
  bool is_found(pid_t pid) const;
  // That one as this process sees it; 0: there is none.
  pid_t seen_here(pid_t pid) const;
  restore::Blank take(pid_t pid);
  bool any_taken() const;
  // Throws where one is still there, for a process that has not come.
  void throw_if_left() const;
  // As this process sees it; 0: none.
  pid_t find_killed() const;
  bool are_all_killed() const;
  // `restorer` has those that were taken; null where none was. Who was killed meanwhile is gone.
  // The Error of another one that is, too.
  std::optional<Error> give_back(restore::TreeRestorer* restorer);

  // Since the last time; what was a signal is for the process.
  std::vector<deputy::Event> take_events_of_first();
  std::vector<std::pair<pid_t, deputy::Event>> take_events_of_others();

 private:
  struct One {
    One(const Deputy& from, const Programs& programs)
        : deputy(from), exchange(from.pid, from.own_pid, *from.supervisor, programs) {}
    Deputy deputy;
    DeputyExchange exchange;
    std::vector<deputy::Event> events;
    bool gone = false;     // its end was seen
    bool killed = false;   // and nobody here had said so
    bool stopped = false;  // by somebody here
    bool held = false;     // it was stopped before it was taken
    deputy::Supervisor& supervisor() const { return **deputy.supervisor; }
  };
  One* find(pid_t pid) const;
  static bool is_taken_and_killed(const One& one);
  void on_killed(One& one);

  std::vector<std::unique_ptr<One>> all_;
  DeputyEnds ends_;
};

}  // namespace telefork::session
