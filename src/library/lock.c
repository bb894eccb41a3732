// A futex word: 0 when free, else the pid of the holder's process and a bit for waiters. In a child
// that was forked while another thread held the lock the word has the parent's pid: nobody of this
// process holds it, so whoever finds that takes it.
#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "library/internal.h"

static const uint32_t kWaiters = 0x80000000;  // a pid has 22 bits at most

static _Atomic uint32_t lock_word;

void tf_lock(void) {
  const uint32_t own = (uint32_t)getpid();
  uint32_t taken = own;
  for (;;) {
    uint32_t seen = atomic_load(&lock_word);
    if ((seen & ~kWaiters) != own) {
      if (atomic_compare_exchange_strong(&lock_word, &seen, taken)) return;
      continue;
    }
    if (!(seen & kWaiters) && !atomic_compare_exchange_strong(&lock_word, &seen, seen | kWaiters)) {
      continue;
    }
    syscall(SYS_futex, &lock_word, FUTEX_WAIT_PRIVATE, own | kWaiters, NULL, NULL, 0);
    taken = own | kWaiters;  // others may wait still
  }
}

void tf_unlock(void) {
  if (atomic_exchange(&lock_word, 0) & kWaiters) {
    syscall(SYS_futex, &lock_word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
  }
}

void tf_reset_lock(void) { atomic_store(&lock_word, 0); }
