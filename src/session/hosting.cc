#include "session/hosting.h"

#include <vector>

#include <fmt/format.h>

#include "base/error.h"
#include "kernel/pid_space.h"
#include "kernel/procfs_system.h"
#include "kernel/userfault.h"

namespace telefork::session {

Hosting decide_hosting(kernel::TraceBar keeper_bar, bool chooses_ids,
                       const std::string& no_namespace) {
  Hosting hosting;
  // What it traces are its own children.
  if (keeper_bar >= kernel::TraceBar::kUsers) hosting.processes = kernel::say_bar(keeper_bar);
  if (!chooses_ids) hosting.ids = no_namespace;
  return hosting;
}

Hosting find_hosting(bool as_other_user) {
  kernel::TraceBar bar = as_other_user ? kernel::trace_bar(kernel::read_ptrace_scope(), false)
                                       : kernel::read_trace_bar();
  bool chooses_ids = kernel::may_choose_ids();
  std::string no_namespace;
  if (int error = chooses_ids ? 0 : kernel::try_pid_namespace(); error != 0) {
    no_namespace = kernel::explain_no_pid_namespace(error, kernel::read_user_namespace_bar());
  }
  Hosting hosting = decide_hosting(bar, chooses_ids, no_namespace);
  hosting.memory = kernel::say_bar(kernel::find_fault_bar(as_other_user));
  return hosting;
}

void say_hosting(const Hosting& hosting, protocol::schema::Hosting::Builder reply) {
  reply.setProcesses(hosting.processes);
  reply.setIds(hosting.ids);
  reply.setMemory(hosting.memory);
}

std::string why_not_lazy(const protocol::schema::HelloReply::Reader& reply) {
  if (!protocol::offers(reply, protocol::kFeatureLazy)) {
    return "the telefork there is older, and takes all memory at once; update it";
  }
  return reply.getHosting().getMemory();
}

std::string why_not_lazy_trees(const protocol::schema::HelloReply::Reader& reply) {
  if (protocol::offers(reply, protocol::kFeatureLazyTrees)) return "";
  return "the telefork there is older, and memory follows one process alone to it; update it";
}

std::string why_not_live(const protocol::schema::HelloReply::Reader& reply) {
  if (protocol::offers(reply, protocol::kFeatureLive)) return "";
  return "the telefork there is older, and takes memory of processes that stand still; update it";
}

bool lets_keep_ids(const protocol::schema::HelloReply::Reader& reply) {
  return reply.getHosting().getIds().size() == 0;
}

void check_hosting(const protocol::schema::HelloReply::Reader& reply, const std::string& node,
                   bool keeps_ids) {
  protocol::schema::Hosting::Reader hosting = reply.getHosting();
  if (hosting.getProcesses().size() != 0) {
    throw Error(Code::kRefused,
                fmt::format("no process can come to {}: {}", node, hosting.getProcesses().cStr()));
  }
  if (keeps_ids && !lets_keep_ids(reply)) {
    throw Error(Code::kRefused, fmt::format("the process must keep its ids, and cannot on {}: {}",
                                            node, hosting.getIds().cStr()));
  }
}

void say_new_ids(pid_t pid, protocol::schema::Prepare::Builder prepare) {
  const std::vector<pid_t> ids = kernel::choose_ids_for(pid);
  auto list = prepare.initNewIds(static_cast<unsigned>(ids.size()));
  for (unsigned i = 0; i < list.size(); ++i) list.set(i, static_cast<std::uint32_t>(ids[i]));
}

void check_detaching(const protocol::ReceivedHelloReply& reply, const std::string& node) {
  if (protocol::offers(*reply, protocol::kFeatureDetach)) return;
  throw Error(Code::kRefused,
              fmt::format("no process can stay on {} by itself: the telepad there ends with its "
                          "session; name one that listens, or move it without --detach",
                          node));
}

void check_trees(const protocol::ReceivedHelloReply& reply, const std::string& node) {
  if (protocol::offers(*reply, protocol::kFeatureTrees)) return;
  throw Error(Code::kRefused, fmt::format("the telefork on {} is older, and takes no process "
                                          "together with its children; update it",
                                          node));
}

}  // namespace telefork::session
