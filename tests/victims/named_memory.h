// Shared memory with a name, as shm_open(3) makes it.
#pragma once

#include <sys/mman.h>
#include <sys/stat.h>

#include "victim.h"

struct NamedMemory {
  char path[128];
  char* memory;  // two pages
};

// It has the name of the victim's folder: where that is not tidied up, the runner does it.
inline NamedMemory make_named_memory() {
  NamedMemory made{};
  char folder[64];
  VICTIM_CHECK(getcwd(folder, sizeof folder) != nullptr);
  snprintf(made.path, sizeof made.path, "/dev/shm%s", std::strrchr(folder, '/'));
  const int file = open(made.path, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (file < 0) victim_skip("named shared memory");
  VICTIM_CHECK(ftruncate(file, 8192) == 0 && fchmod(file, 0640) == 0);
  made.memory =
      static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
  VICTIM_CHECK(made.memory != MAP_FAILED && close(file) == 0);
  std::strcpy(made.memory + 4096, "named");
  return made;
}

// Whether its name leads to it, in which `text` was written. There is none any more then.
inline void end_named_memory(const NamedMemory& made, const char* text) {
  struct stat stat;
  VICTIM_CHECK(::stat(made.path, &stat) == 0 && stat.st_size == 8192 &&
               (stat.st_mode & 07777) == 0640);
  const int again = open(made.path, O_RDWR);
  char found[16];
  VICTIM_CHECK(pread(again, found, sizeof found, 0) == sizeof found &&
               std::strcmp(found, text) == 0 && unlink(made.path) == 0);
}
