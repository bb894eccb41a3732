// Who is to be ended first where memory is short, and what a core dump has in it.
#include "victim.h"

static void write_text(const char* path, const char* text) {
  const int file = open(path, O_WRONLY);
  const auto size = static_cast<ssize_t>(std::strlen(text));
  VICTIM_CHECK(file >= 0 && write(file, text, std::strlen(text)) == size && close(file) == 0);
}

static void check_text(const char* path, const char* expected) {
  char text[32] = "";
  const int file = open(path, O_RDONLY);
  VICTIM_CHECK(file >= 0 && read(file, text, sizeof text - 1) > 0 && close(file) == 0);
  VICTIM_CHECK(std::strcmp(text, expected) == 0);
}

int main() {
  write_text("/proc/self/oom_score_adj", "321");
  write_text("/proc/self/coredump_filter", "0x17");
  victim_ready();
  victim_wait();
  check_text("/proc/self/oom_score_adj", "321\n");
  check_text("/proc/self/coredump_filter", "00000017\n");
  victim_pass();
}
