// Secure bits, and capabilities that are kept over a change of the user id.
#include <linux/securebits.h>
#include <sys/prctl.h>

#include "victim.h"

int main() {
  if (geteuid() != 0) victim_skip("root");
  constexpr unsigned long kBits = SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS | SECBIT_NOROOT_LOCKED;
  VICTIM_CHECK(prctl(PR_SET_SECUREBITS, kBits) == 0);
  victim_ready();
  victim_wait();
  VICTIM_CHECK(prctl(PR_GET_SECUREBITS) == static_cast<int>(kBits) && prctl(PR_GET_KEEPCAPS) == 1);
  VICTIM_CHECK(prctl(PR_SET_SECUREBITS, kBits | SECBIT_NOROOT) == -1 && errno == EPERM);
  victim_pass();
}
