// telefork_run_on(): how long it takes until the function runs there, and from its end until it has
// returned here, by what the function has written to meanwhile.
//
//     call_bench --node NODE --transport NAME --size 1M [--pages small|huge] [--mode eager|lazy]
//                [--trials N]
//
// By turns: nothing, 1000 pages, all of them. All clocks are those of one kernel. The first call
// opens the link and is in no median. Before each way as much free memory is touched as it may
// take, and what was under way is given time to end.
#include <telefork/telefork.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "measure.h"

namespace telefork::bench {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kSomePages = 1000;
constexpr int kSettleMicroseconds = 50'000;

struct Call {
  TouchedMemory* memory;
  std::size_t pages;  // to be written to, evenly spread
  double began = 0;
  double ended = 0;
};

void run_there(void* argument) {
  Call& call = *static_cast<Call*>(argument);
  call.began = now();
  const std::size_t all = call.memory->size() / kPage;
  for (std::size_t i = 0; i < call.pages; ++i) {
    std::byte& first = call.memory->data()[i * all / call.pages * kPage];
    first = static_cast<std::byte>(~static_cast<unsigned>(first));
  }
  touch_free_memory(call.pages * kPage);
  usleep(kSettleMicroseconds);
  call.ended = now();
}

struct Series {
  std::string wrote;
  std::size_t pages;
  std::vector<double> there, back, whole;  // whole: without the function itself
};

void run(const Arguments& arguments) {
  const std::string node = arguments.text("node");
  telefork_options options = TELEFORK_OPTIONS_INIT;
  options.mode =
      arguments.text("mode", "eager") == "lazy" ? TELEFORK_MODE_LAZY : TELEFORK_MODE_EAGER;
  TouchedMemory memory(arguments.size("size"), arguments.pages());
  const std::size_t all = memory.size() / kPage;
  std::vector<Series> series = {{"nothing", 0, {}, {}, {}}, {"all", all, {}, {}, {}}};
  if (all > kSomePages) series.push_back({"1000 pages", kSomePages, {}, {}, {}});
  for (long i = -1; i < arguments.number("trials", 5); ++i) {
    for (Series& one : series) {
      touch_free_memory(memory.size());
      usleep(kSettleMicroseconds);
      Call call{&memory, one.pages};
      const double before = now();
      if (telefork_run_on_with(node.c_str(), run_there, &call, &options) != 0) {
        fail(telefork_error());
      }
      const double after = now();
      if (i < 0) continue;
      one.there.push_back(call.began - before);
      one.back.push_back(after - call.ended);
      one.whole.push_back(call.began - before + after - call.ended);
    }
  }
  for (const Series& one : series) {
    Record record("call");
    record.text("node", arguments.text("transport"));
    record.text("pages", arguments.text("pages", "small"));
    record.text("mode", arguments.text("mode", "eager"));
    record.text("wrote", one.wrote);
    record.number("size", static_cast<double>(memory.size()));
    record.samples("there_ms", one.there);
    record.samples("back_ms", one.back);
    record.samples("whole_ms", one.whole);
    record.print();
  }
}

}  // namespace
}  // namespace telefork::bench

int main(int argc, char** argv) {
  // What the caller left open could not travel.
  close_range(3, ~0U, 0);
  telefork::bench::run({argc, argv, {"node", "transport", "size", "pages", "mode", "trials"}});
  return 0;
}
