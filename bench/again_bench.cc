// telefork_run_on(), called again: how long it takes beyond the function itself when the node may
// have kept what the call before left there.
//
//     again_bench --node NODE --transport NAME --size 1G [--pages small|huge] [--mode eager|lazy]
//                 [--keeps yes|no] [--repeat yes|no] [--trials N]
//
// The function writes to 1000 pages, and so does the program between two calls, to others. Beside
// it, by turns: all of the memory read through the kernel and hashed page by page, as has to be
// done to find what has changed. The first call is in no median. With --repeat that is not done:
// Options::repeat.
#include <fcntl.h>
#include <telefork/telefork.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "image/hash.h"
#include "measure.h"

namespace telefork::bench {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kSomePages = 1000;
constexpr std::size_t kBuffer = 256 * 1024;
// Until a node has kept what was there: a second for each GB, and a moment.
constexpr double kKeepMicrosecondsPerByte = 1e6 / (1 << 30);
constexpr int kSettleMicroseconds = 200'000;

struct Call {
  TouchedMemory* memory;
  double took = 0;  // of the function
};

void change_some(TouchedMemory& memory, std::size_t first) {
  const std::size_t all = memory.size() / kPage;
  for (std::size_t i = 0; i < kSomePages; ++i) {
    std::byte& byte = memory.data()[(i * all / kSomePages + first) * kPage];
    byte = static_cast<std::byte>(~static_cast<unsigned>(byte));
  }
}

void run_there(void* argument) {
  Call& call = *static_cast<Call*>(argument);
  const double began = now();
  change_some(*call.memory, 0);
  call.took = now() - began;
}

double read_and_hash(const TouchedMemory& memory) {
  const int file = ::open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
  if (file < 0) fail_errno("/proc/self/mem");
  const image::SecretHash hash(image::SecretHash::make_secret());
  std::vector<std::byte> buffer(kBuffer);
  unsigned sum = 0;
  const double began = now();
  for (std::size_t at = 0; at < memory.size();) {
    const std::size_t size = std::min(kBuffer, memory.size() - at);
    const auto offset = reinterpret_cast<off_t>(memory.data() + at);
    if (::pread(file, buffer.data(), size, offset) != static_cast<ssize_t>(size)) {
      fail_errno("reading /proc/self/mem");
    }
    for (std::size_t page = 0; page < size; page += kPage) {
      sum += std::to_integer<unsigned>(hash.of(std::span(buffer).subspan(page, kPage))[0]);
    }
    at += size;
  }
  const double took = now() - began;
  ::close(file);
  if (sum == 0) fail("all hashes are 0");
  return took;
}

void run(const Arguments& arguments) {
  const std::string node = arguments.text("node");
  const std::string mode = arguments.text("mode", "eager");
  telefork_options options = TELEFORK_OPTIONS_INIT;
  options.mode = mode == "lazy" ? TELEFORK_MODE_LAZY : TELEFORK_MODE_EAGER;
  options.repeat = arguments.text("repeat", "no") == "yes" ? 1 : 0;
  TouchedMemory memory(arguments.size("size"), arguments.pages());
  std::vector<double> call_times;
  std::vector<double> function_times;
  std::vector<double> hash_times;
  for (long i = -1; i < arguments.number("trials", 5); ++i) {
    const double hashed = read_and_hash(memory);
    touch_free_memory(memory.size());
    usleep(kSettleMicroseconds +
           static_cast<int>(kKeepMicrosecondsPerByte * static_cast<double>(memory.size())));
    change_some(memory, 1);
    Call call{&memory};
    const double before = now();
    if (telefork_run_on_with(node.c_str(), run_there, &call, &options) != 0) fail(telefork_error());
    const double whole = now() - before;
    if (i < 0) continue;
    call_times.push_back(whole - call.took);
    function_times.push_back(call.took);
    hash_times.push_back(hashed);
  }
  Record record("again");
  record.text("node", arguments.text("transport"));
  record.text("pages", arguments.text("pages", "small"));
  record.text("mode", mode);
  record.text("keeps", arguments.text("keeps", "yes"));
  record.text("repeat", arguments.text("repeat", "no"));
  record.number("size", static_cast<double>(memory.size()));
  record.samples("call_ms", call_times);
  record.samples("f_ms", function_times);
  record.samples("hash_ms", hash_times);
  record.print();
}

}  // namespace
}  // namespace telefork::bench

int main(int argc, char** argv) {
  // What the caller left open could not travel.
  close_range(3, ~0U, 0);
  telefork::bench::run(
      {argc, argv, {"node", "transport", "size", "pages", "mode", "keeps", "repeat", "trials"}});
  return 0;
}
