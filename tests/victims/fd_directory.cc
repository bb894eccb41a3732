// A directory that was read in part: the rest comes, and nothing twice.
#include <dirent.h>
#include <sys/stat.h>

#include "victim.h"

int main() {
  char name[16];
  VICTIM_CHECK(mkdir("folder", 0700) == 0);
  const int folder = open("folder", O_RDONLY | O_DIRECTORY);
  for (int i = 0; i < 50; ++i) {
    snprintf(name, sizeof name, "%d", i);
    VICTIM_CHECK(close(openat(folder, name, O_CREAT | O_WRONLY, 0600)) == 0);
  }
  DIR* reading = fdopendir(openat(folder, ".", O_RDONLY | O_DIRECTORY));
  bool seen[50] = {};
  int count = 0;
  auto read_one = [&] {
    const dirent* entry = readdir(reading);
    if (entry == nullptr) return false;
    if (entry->d_name[0] == '.') return true;
    bool& mark = seen[std::atoi(entry->d_name)];
    VICTIM_CHECK(!mark);
    mark = true;
    ++count;
    return true;
  };
  for (int i = 0; i < 20; ++i) VICTIM_CHECK(read_one());
  victim_ready();
  victim_wait();
  seekdir(reading, telldir(reading));
  while (read_one()) {
  }
  VICTIM_CHECK(count == 50);
  for (int i = 0; i < 50; ++i) {
    snprintf(name, sizeof name, "%d", i);
    VICTIM_CHECK(unlinkat(folder, name, 0) == 0);
  }
  VICTIM_CHECK(rmdir("folder") == 0);
  victim_pass();
}
