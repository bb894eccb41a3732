// An inotify instance with a watch of a folder, in which something happens only afterwards.
#include <sys/inotify.h>

#include "victim.h"

int main() {
  const int notify = inotify_init1(IN_NONBLOCK);
  const int watch = inotify_add_watch(notify, ".", IN_CREATE | IN_DELETE);
  VICTIM_CHECK(watch >= 0);
  VICTIM_REFUSED_TO_PLAIN_USERS("is not told here by a name");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(close(open("first", O_CREAT | O_WRONLY, 0600)) == 0 && unlink("first") == 0);
  alignas(inotify_event) char buffer[1024];
  const ssize_t n = read(notify, buffer, sizeof buffer);
  const auto* created = reinterpret_cast<const inotify_event*>(buffer);
  VICTIM_CHECK(n > 0 && created->mask == IN_CREATE && created->wd == watch);
  const auto* deleted =
      reinterpret_cast<const inotify_event*>(buffer + sizeof(inotify_event) + created->len);
  VICTIM_CHECK(deleted->mask == IN_DELETE && std::strcmp(deleted->name, "first") == 0);
  victim_pass();
}
