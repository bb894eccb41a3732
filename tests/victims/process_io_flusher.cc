// A process that others write back their memory through (PR_SET_IO_FLUSHER).
#include <sys/prctl.h>

#include "victim.h"

int main() {
  if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0) victim_skip("PR_SET_IO_FLUSHER");
  VICTIM_LOSES("PR_SET_IO_FLUSHER");
  victim_ready();
  victim_wait();
  VICTIM_CHECK(prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) == 1);
  victim_pass();
}
