#include "capture/survey.h"

#include <fmt/format.h>
#include <unistd.h>

#include "base/error.h"

namespace telefork::capture {
namespace {

void survey_namespaces(Survey& survey) {
  // What a process of another network or mount namespace sees is not what its new home has. A
  // container's process is captured by the telepad of that container.
  for (const char* name : {"pid", "mnt", "net", "user", "ipc", "uts"}) {
    if (kernel::read_ns_link(survey.pid, name) == kernel::read_ns_link(::getpid(), name)) continue;
    survey.refusals.push_back({fmt::format("process {}", survey.pid),
                               fmt::format("it is in another {} namespace than telefork", name),
                               "run telefork inside of that namespace"});
  }
}

}  // namespace

void survey_policy(const SurveyOptions& options, Survey& survey) {
  std::string process = fmt::format("process {} ({})", survey.pid, survey.status.name);
  if (survey.status.seccomp != 0) {
    survey.refusals.push_back({process, "it runs under seccomp, which cannot be restored yet",
                               "start it without a seccomp filter"});
  }
  if (survey.status.tracer_pid != 0 && survey.status.tracer_pid != ::getpid()) {
    survey.refusals.push_back({process,
                               fmt::format("process {} traces it", survey.status.tracer_pid),
                               "end that debugger first"});
  }
  if (kernel::read_root_link(survey.pid) != kernel::read_root_link(::getpid())) {
    survey.refusals.push_back({process, "its root directory is not this machine's (chroot)", ""});
  }
  std::string cwd = kernel::read_cwd_link(survey.pid);
  if (cwd.ends_with(" (deleted)")) {
    survey.refusals.push_back(
        {process, "its working directory was removed: " + cwd, "have it change to another one"});
  }
  if (options.purpose == Purpose::kSave && !kernel::list_children(survey.pid).empty()) {
    survey.refusals.push_back(
        {process, "it has children, and a process cannot be saved with its children yet",
         "save it when they have ended"});
  }
  survey_namespaces(survey);
}

Survey survey_process(pid_t pid, const SurveyOptions& options) {
  Survey survey;
  survey.pid = pid;
  survey.stat = kernel::read_stat(pid);
  survey.status = kernel::read_status(pid);
  if (survey.stat.state == 'Z') {
    throw Error(Code::kGone, fmt::format("process {} has ended", pid));
  }
  survey_policy(options, survey);
  survey_mappings(options, survey);
  survey_descriptors(options, survey);
  return survey;
}

}  // namespace telefork::capture
