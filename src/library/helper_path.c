// Where the agent's program is: TELEFORK_AGENT, else libexec/telefork/ beside the library's (or, in
// the static library, the executable's) own folder or a parent of it. Never PATH.
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "library/internal.h"

static_assert(PATH_MAX <= 4096, "tf_find_agent");

static const char kAgent[] = "libexec/telefork/telefork-agent";
enum { kMostParents = 3 };  // lib/x86_64-linux-gnu/libtelefork.so needs two

// Real and absolute: the agent is exec'ed from another working directory.
static bool find_ourselves(char path[PATH_MAX]) {
#ifdef TELEFORK_STATIC
  return realpath("/proc/self/exe", path) != NULL;
#else
  Dl_info info;
  return dladdr((const void*)&tf_find_agent, &info) != 0 && realpath(info.dli_fname, path) != NULL;
#endif
}

static bool take_chosen_agent(const char* chosen, char path[PATH_MAX]) {
  if (realpath(chosen, path) != NULL && access(path, X_OK) == 0) return true;
  tf_set_error(TELEFORK_FAILED, errno, "no helper program: %s (TELEFORK_AGENT): %s", chosen,
               strerror(errno));
  return false;
}

bool tf_find_agent(char path[4096]) {
  const char* chosen = secure_getenv("TELEFORK_AGENT");
  if (chosen != NULL && chosen[0] != '\0') return take_chosen_agent(chosen, path);
  static char folder[PATH_MAX];
  if (!find_ourselves(folder)) {
    tf_set_error(TELEFORK_FAILED, errno,
                 "no helper program: cannot tell where libtelefork itself is; TELEFORK_AGENT can "
                 "name telefork-agent");
    return false;
  }
  static char first[PATH_MAX];
  first[0] = '\0';
  char* slash = strrchr(folder, '/');
  if (slash != NULL) *slash = '\0';
  for (int parents = 0; parents < kMostParents; ++parents) {
    slash = strrchr(folder, '/');
    if (slash == NULL) break;
    *slash = '\0';
    if (snprintf(path, PATH_MAX, "%s/%s", folder, kAgent) >= PATH_MAX) continue;
    if (access(path, X_OK) == 0) return true;
    if (first[0] == '\0') strcpy(first, path);
  }
  tf_set_error(TELEFORK_FAILED, ENOENT,
               "no helper program: %s is not there, nor in the folders above it; TELEFORK_AGENT "
               "can name it",
               first);
  return false;
}
