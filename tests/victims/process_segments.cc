// Segments of its own (modify_ldt), of code and of data.
#include <asm/ldt.h>

#include "victim.h"

namespace {

user_desc segment_of(unsigned number, unsigned contents) {
  user_desc segment{};
  segment.entry_number = number;
  segment.limit = 0xfffff;
  segment.limit_in_pages = 1;
  segment.seg_32bit = 1;
  segment.contents = contents;
  segment.useable = 1;
  return segment;
}

bool make(const user_desc& segment) {
  return syscall(SYS_modify_ldt, 0x11, &segment, sizeof segment) == 0;
}

}  // namespace

int main() {
  if (!make(segment_of(0, MODIFY_LDT_CONTENTS_DATA))) victim_skip("modify_ldt");
  VICTIM_CHECK(make(segment_of(700, MODIFY_LDT_CONTENTS_CODE)));
  user_desc small = segment_of(3, MODIFY_LDT_CONTENTS_DATA);
  small.limit = 17;
  small.limit_in_pages = 0;
  small.base_addr = 0x12345678;
  small.read_exec_only = 1;
  VICTIM_CHECK(make(small));
  char before[1024 * LDT_ENTRY_SIZE] = "";
  char after[sizeof before] = "";
  const long size = syscall(SYS_modify_ldt, 0, before, sizeof before);
  VICTIM_CHECK(size == sizeof before);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(syscall(SYS_modify_ldt, 0, after, sizeof after) == size);
  VICTIM_CHECK(std::memcmp(before, after, sizeof before) == 0);
  victim_pass();
}
