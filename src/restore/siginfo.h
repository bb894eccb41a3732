// siginfo_t as a record carries it.
#pragma once

#include <csignal>
#include <cstring>

#include <capnp/blob.h>

#include "base/error.h"

namespace telefork::restore {

inline siginfo_t decode_siginfo(::capnp::Data::Reader bytes) {
  siginfo_t info{};
  if (bytes.size() != sizeof(info)) throw Error(Code::kCorrupt, "a pending signal is malformed");
  std::memcpy(&info, bytes.begin(), sizeof(info));
  if (info.si_signo < 1 || info.si_signo > 64) {
    throw Error(Code::kCorrupt, "a pending signal has no such number");
  }
  return info;
}

}  // namespace telefork::restore
