// A map of bpf(2) with a value in it.
#include <linux/bpf.h>

#include "victim.h"

static long call(bpf_cmd command, bpf_attr& attributes) {
  return syscall(SYS_bpf, command, &attributes, sizeof attributes);
}

int main() {
  bpf_attr attributes{};
  attributes.map_type = BPF_MAP_TYPE_ARRAY;
  attributes.key_size = attributes.value_size = attributes.max_entries = 4;
  const long map = call(BPF_MAP_CREATE, attributes);
  if (map < 0) victim_skip("bpf");
  int key = 2;
  int value = 77;
  bpf_attr element{};
  element.map_fd = static_cast<unsigned>(map);
  element.key = reinterpret_cast<unsigned long>(&key);
  element.value = reinterpret_cast<unsigned long>(&value);
  VICTIM_CHECK(call(BPF_MAP_UPDATE_ELEM, element) == 0);
  VICTIM_REFUSED("this kind of descriptor cannot move yet");
  victim_ready();
  victim_wait();
  value = 0;
  VICTIM_CHECK(call(BPF_MAP_LOOKUP_ELEM, element) == 0 && value == 77);
  victim_pass();
}
