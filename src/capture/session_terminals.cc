#include "capture/session_terminals.h"

#include <algorithm>

#include <fmt/format.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "kernel/pidfd.h"

namespace telefork::capture {
namespace {

struct Kin {
  const kernel::Stat& stat;
  const kernel::Status& status;
};

std::vector<Kin> all_of(const TreeSurvey& tree) {
  std::vector<Kin> all;
  for (const Survey& member : tree.members) all.push_back({member.stat, member.status});
  for (const EndedMember& ended : tree.ended) all.push_back({ended.stat, ended.status});
  return all;
}

// A member of the session that stays; 0: none.
pid_t find_outside(const TreeSurvey& tree, pid_t session) {
  const std::set<pid_t> own = tree.pids();
  for (const pid_t other : kernel::list_processes()) {
    if (own.contains(other)) continue;
    try {
      const kernel::Stat stat = kernel::read_stat(other);
      if (stat.session == session && stat.tty_nr != 0 && stat.state != 'Z') return other;
    } catch (const Error& error) {
      if (error.code() != Code::kGone) throw;
    }
  }
  return 0;
}

void look_at_session(pid_t session, pid_t foreground, PtyObject& pty, TreeSurvey& tree) {
  const std::string name = fmt::format("terminal /dev/pts/{}", pty.number);
  auto refuse_it = [&](Reason reason, const std::string& detail) {
    tree.first().refusals.push_back(refuse(name, reason, detail));
  };
  auto leader = std::find_if(tree.members.begin(), tree.members.end(),
                             [&](const Survey& member) { return member.pid == session; });
  if (leader == tree.members.end() || leader == tree.members.begin()) {
    return refuse_it(Reason::kTerminal,
                     fmt::format("session {} has it, which is not begun anew there", session));
  }
  if (pid_t other = find_outside(tree, session)) {
    return refuse_it(Reason::kHolder, std::to_string(other));
  }
  const std::vector<Kin> all = all_of(tree);
  auto group = std::find_if(all.begin(), all.end(), [&](const Kin& one) {
    return one.stat.pgrp == foreground && one.stat.session == session;
  });
  if (group == all.end()) {
    return refuse_it(Reason::kTerminal, "its foreground process group has just ended");
  }
  pty.session = leader->status.ns_tgids.back();
  pty.foreground = group->status.ns_pgids.back();
}

}  // namespace

void survey_session_terminals(TreeSurvey& tree) {
  for (PtyObject& pty : tree.first().ptys) {
    if (pty.hung_up) continue;
    const UniqueFd master = kernel::try_take_fd(pty.pid, pty.fd);
    pid_t session = 0;
    pid_t foreground = 0;
    if (!master || ::ioctl(master.get(), TIOCGSID, &session) != 0) continue;  // of none
    if (::ioctl(master.get(), TIOCGPGRP, &foreground) != 0) {
      throw_errno("asking for the foreground group of a terminal");
    }
    look_at_session(session, foreground, pty, tree);
  }
}

void fill_window(const UniqueFd& terminal, image::schema::WindowSize::Builder record) {
  winsize window{};
  if (::ioctl(terminal.get(), TIOCGWINSZ, &window) != 0) {
    throw_errno("asking for the size of a terminal");
  }
  record.setRows(window.ws_row);
  record.setColumns(window.ws_col);
  record.setXPixels(window.ws_xpixel);
  record.setYPixels(window.ws_ypixel);
}

void fill_session_terminals(const TreeSurvey& tree, image::schema::Tree::Builder record) {
  std::vector<const PtyObject*> all;
  for (const PtyObject& pty : tree.first().ptys) {
    if (pty.session != 0) all.push_back(&pty);
  }
  auto list = record.initTerminals(static_cast<unsigned>(all.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    const UniqueFd master = kernel::take_fd(all[i]->pid, all[i]->fd);
    if (!master) throw Error(Code::kGone, "a terminal has just been closed");
    list[i].setNumber(all[i]->number);
    list[i].setSession(static_cast<std::uint32_t>(all[i]->session));
    list[i].setForeground(static_cast<std::uint32_t>(all[i]->foreground));
    fill_window(master, list[i].initWindow());
  }
}

bool lacks_terminal(const TreeSurvey& tree, const kernel::Stat& stat) {
  if (stat.tty_nr != 0) return false;
  auto leader = std::find_if(tree.members.begin(), tree.members.end(),
                             [&](const Survey& member) { return member.pid == stat.session; });
  if (leader == tree.members.end()) return false;
  const pid_t session = leader->status.ns_tgids.back();
  const std::vector<PtyObject>& ptys = tree.first().ptys;
  return std::any_of(ptys.begin(), ptys.end(),
                     [&](const PtyObject& pty) { return pty.session == session; });
}

}  // namespace telefork::capture
