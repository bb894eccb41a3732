// A policy of which node's memory is used.
#include <linux/mempolicy.h>

#include "victim.h"

int main() {
  const unsigned long nodes = 1;
  if (syscall(SYS_set_mempolicy, MPOL_PREFERRED, &nodes, 8) != 0) victim_skip("set_mempolicy");
  VICTIM_LOSES("the NUMA policy (set_mempolicy(2))");
  victim_ready();
  victim_wait();
  int mode = 0;
  VICTIM_CHECK(syscall(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, 0) == 0);
  VICTIM_CHECK(mode == MPOL_PREFERRED);
  victim_pass();
}
