#include "restore/vdso_jump.h"

#include <cstring>
#include <map>

#include <sys/syscall.h>

namespace telefork::restore {
namespace {

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

template <class T>
void append(std::vector<std::byte>& bytes, T value) {
  const auto* begin = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), begin, begin + sizeof(value));
}

}  // namespace

std::vector<std::byte> encode_jump(RemotePtr, RemotePtr to) {
  // movabs $to, %rax; jmp *%rax. rax is the caller's to lose, and vDSO functions take no variable
  // arguments.
  std::vector<std::byte> code = bytes_of({0x48, 0xb8});
  append(code, to.value());
  for (std::byte b : bytes_of({0xff, 0xe0})) code.push_back(b);
  return code;
}

std::vector<std::byte> encode_system_call_of(const std::string& symbol) {
  static const std::map<std::string, int> kCalls = {{"clock_gettime", SYS_clock_gettime},
                                                    {"gettimeofday", SYS_gettimeofday},
                                                    {"clock_getres", SYS_clock_getres},
                                                    {"time", SYS_time},
                                                    {"getcpu", SYS_getcpu},
                                                    {"getrandom", SYS_getrandom}};
  std::string name = symbol.starts_with("__vdso_") ? symbol.substr(7) : symbol;
  auto call = kCalls.find(name);
  if (call == kCalls.end()) return {};
  // mov $number, %eax; syscall; ret
  std::vector<std::byte> code = bytes_of({0xb8});
  append(code, call->second);
  for (std::byte b : bytes_of({0x0f, 0x05, 0xc3})) code.push_back(b);
  return code;
}

}  // namespace telefork::restore
