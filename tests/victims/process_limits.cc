// Limits, soft and hard, of every kind.
#include <sys/resource.h>

#include "victim.h"

int main() {
  const __rlimit_resource_t kinds[] = {RLIMIT_CORE,     RLIMIT_NOFILE,  RLIMIT_STACK,
                                       RLIMIT_MSGQUEUE, RLIMIT_MEMLOCK, RLIMIT_NICE,
                                       RLIMIT_RTPRIO,   RLIMIT_FSIZE,   RLIMIT_SIGPENDING};
  rlimit wanted[9];
  for (int i = 0; i < 9; ++i) {
    VICTIM_CHECK(getrlimit(kinds[i], &wanted[i]) == 0);
    const rlim_t most = static_cast<rlim_t>(1) << (kinds[i] == RLIMIT_FSIZE ? 40 : 20);
    if (wanted[i].rlim_max > most) wanted[i].rlim_max = most;
    wanted[i].rlim_cur = wanted[i].rlim_max - wanted[i].rlim_max / 4;
    VICTIM_CHECK(setrlimit(kinds[i], &wanted[i]) == 0);
  }
  victim_ready();
  victim_wait();
  for (int i = 0; i < 9; ++i) {
    rlimit now{};
    VICTIM_CHECK(getrlimit(kinds[i], &now) == 0 && now.rlim_cur == wanted[i].rlim_cur);
    VICTIM_CHECK(now.rlim_max == wanted[i].rlim_max);
  }
  victim_pass();
}
