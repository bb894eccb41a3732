// Segments of its own (modify_ldt).
#include <asm/ldt.h>

#include "victim.h"

int main() {
  user_desc segment{};
  segment.limit = 1;
  segment.seg_32bit = 1;
  if (syscall(SYS_modify_ldt, 1, &segment, sizeof segment) != 0) victim_skip("modify_ldt");
  VICTIM_REFUSED_ONCE_STOPPED(
      "it has made segments by modify_ldt(2), which cannot be restored yet");
  victim_ready();
  victim_wait();
  char entry[64] = "";
  VICTIM_CHECK(syscall(SYS_modify_ldt, 0, entry, sizeof entry) > 0 && entry[0] != 0);
  victim_pass();
}
