// Calls whose memory the node has from the call before.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include <sys/mman.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"
#include "lazy_pages.h"

namespace fork_test {
namespace {

constexpr std::size_t kKeptSize = 32 * kMegabyte;
constexpr std::size_t kCount = kKeptSize / kPageOfMemory;
constexpr std::size_t kFew = 2000;  // of the program's own, whatever they are

telefork::Options eager() {
  telefork::Options options;
  options.mode = telefork::Mode::eager;
  return options;
}

telefork::Options repeated() {
  telefork::Options options;
  options.repeat = true;
  return options;
}

// Of this process, watched for writes.
bool is_watched() {
  std::ifstream smaps("/proc/self/smaps");
  for (std::string line; std::getline(smaps, line);) {
    if (line.starts_with("VmFlags:") && line.find(" uw") != std::string::npos) return true;
  }
  return false;
}

void move_elsewhere(Pages& pages) {
  void* room = mmap(nullptr, kKeptSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(mremap(pages.start, kKeptSize, kKeptSize, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
  pages.start = static_cast<unsigned char*>(room);
}

// Zeros, in the same place.
void map_anew(const Pages& pages) {
  require(munmap(pages.start, kKeptSize) == 0);
  require(mmap(pages.start, kKeptSize, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == pages.start);
}

std::size_t number_after(const std::string& text, const std::string& key) {
  const std::size_t at = text.find("\"" + key + "\":");
  return at == std::string::npos ? SIZE_MAX
                                 : std::strtoull(&text[at + key.size() + 3], nullptr, 10);
}

class ACallAgain : public AFork {
 protected:
  // What goes over TLS, and to a telepad that does not end with its session.
  bool node_keeps() const {
    return GetParam() != "local" && !GetParam().starts_with("unix") &&
           !GetParam().starts_with("ssh:");
  }

  // In f: until the test has looked at the list of sessions.
  void be_listed(int call) const {
    make_file(path("there" + std::to_string(call)));
    await_file(path("listed" + std::to_string(call)));
  }
  // In a program.
  void call_twice(const Body& between) const {
    const Pages pages(kKeptSize);
    const auto look = [&](int call) {
      pages.expect_untouched(0, kCount);
      be_listed(call);
    };
    call_on(
        node(), [&] { look(1); }, eager());
    between();
    call_on(
        node(), [&] { look(2); }, eager());
  }
  std::string list(int call) const {
    if (!file_comes(path("there" + std::to_string(call)))) return "it never came there";
    std::string listed;
    // f may run before home has heard of it.
    do {
      listed = telefork("ps --json");
    } while (listed.find("\"state\":\"away\"") == std::string::npos);
    make_file(path("listed" + std::to_string(call)));
    return listed;
  }
  static void expect_all_came(const std::string& listed) {
    EXPECT_EQ(number_after(listed, "pages_kept"), 0U) << listed;
    EXPECT_GE(number_after(listed, "pages_sent"), kCount) << listed;
  }
  static void expect_few_came(const std::string& listed) {
    EXPECT_GE(number_after(listed, "pages_kept"), kCount - 100) << listed;
    EXPECT_LT(number_after(listed, "pages_sent"), kFew) << listed;
  }
  void expect(bool kept, const std::string& listed) const {
    if (kept) {
      expect_few_came(listed);
    } else {
      expect_all_came(listed);
    }
  }
};

// Its session says what was kept, and gives what it watches by to its agent, when it is home: a
// call that comes sooner is as any other.
class ACallRepeated : public ACallAgain {
 protected:
  bool node_keeps() const { return GetParam() != "local" && !GetParam().starts_with("ssh:"); }
  // In a program: until its session has ended.
  void settle(int call) const {
    make_file(path("home" + std::to_string(call)));
    await_file(path("settled" + std::to_string(call)));
  }
  void let_settle(int call) const {
    ASSERT_TRUE(file_comes(path("home" + std::to_string(call))));
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(3);
    while (telefork("ps --json").find("\"role\":\"away\"") != std::string::npos) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "its session does not end";
      usleep(1000);
    }
    make_file(path("settled" + std::to_string(call)));
  }
  // Linux 6.7 can.
  bool watches() const {
    utsname names{};
    int major = 0;
    int minor = 0;
    uname(&names);
    std::sscanf(names.release, "%d.%d", &major, &minor);
    return node_keeps() && (major > 6 || (major == 6 && minor >= 7));
  }
};

class ACallToATelepadOfItsOwn : public ACallAgain {
 protected:
  // Of the session that was opened ahead of the next call, with all of its connections; -1 when it
  // does not come.
  pid_t await_keeper_in_waiting() const {
    constexpr long kSockets = 4;  // to home: control, bulk, pages; and to the telepad
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(3);
    for (; std::chrono::steady_clock::now() < deadline; usleep(1000)) {
      const std::vector<pid_t> keepers = list_keepers(telepad_);
      if (keepers.size() != 1) continue;
      // A plain user may not look into one.
      if (geteuid() != 0 || count_sockets(descriptors_of(keepers[0])) == kSockets) {
        return keepers[0];
      }
    }
    return -1;
  }
};

TEST_P(ACallAgain, SendsOnlyWhatHasChangedHere) {
  Program program = start([this] {
    const Pages pages(kKeptSize);
    call_on(
        node(),
        [&] {
          for (std::size_t page = 0; page < 10; ++page) pages.word(page * 700) = page;
          be_listed(1);
        },
        eager());
    for (std::size_t page = 0; page < 10; ++page) require_equal(pages.word(page * 700), page);
    for (std::size_t page = 0; page < 10; ++page) pages.word(page * 700 + 1) = 4711;
    const auto expect_all = [&] {
      for (std::size_t page = 0; page < kCount; ++page) {
        std::size_t expected = page + 1;
        if (page < 7000 && page % 700 == 0) expected = page / 700;
        if (page < 7000 && page % 700 == 1) expected = 4711;
        require_equal(pages.word(page), expected);
      }
    };
    for (int call : {2, 3}) {
      call_on(
          node(),
          [&] {
            expect_all();
            be_listed(call);
          },
          eager());
      expect_all();
    }
  });
  expect_all_came(list(1));
  expect(node_keeps(), list(2));
  expect(node_keeps(), list(3));
  EXPECT_TRUE(went_well(finish(program)));
}

TEST_P(ACallAgain, KnowsNothingOfWhatWasDroppedMovedAndMadeMeanwhile) {
  Outcome outcome = run([this] {
    const Pages dropped(kKeptSize);
    const Pages moved(kKeptSize);
    const Pages unmapped(kKeptSize);
    call_on(
        node(), [] {}, eager());
    require(madvise(dropped.start, kKeptSize / 2, MADV_DONTNEED) == 0);
    Pages there = moved;
    move_elsewhere(there);
    map_anew(unmapped);
    unmapped.word(7) = 7;
    const auto expect_all = [&] {
      for (std::size_t page = 0; page < kCount; ++page) {
        require_equal(dropped.word(page), page < kCount / 2 ? 0 : page + 1);
        require_equal(unmapped.word(page), page == 7 ? page : 0);
      }
      there.expect_untouched(0, kCount);
    };
    for (int i = 0; i < 2; ++i) {
      call_on(node(), expect_all, eager());
      expect_all();
    }
  });
  EXPECT_TRUE(went_well(outcome));
}

// Of which most has not been touched there by then.
TEST_P(ACallAgain, ComesHomeThoughTheFunctionHasDroppedMovedAndForkedWhatWasKept) {
  Outcome outcome = run([this] {
    Pages moved(kKeptSize);
    const Pages dropped(kKeptSize);
    const Pages unmapped(kKeptSize);
    call_on(
        node(), [] {}, eager());
    const auto change = [&] {
      move_elsewhere(moved);
      require(madvise(dropped.start, kKeptSize / 2, MADV_DONTNEED) == 0);
      require(munmap(unmapped.start, kKeptSize / 2) == 0);
      const pid_t child = fork();
      if (child == 0) {
        moved.expect_untouched(0, kCount);
        dropped.expect_untouched(kCount / 2, kCount);
        _exit(0);
      }
      int status = 0;
      require(waitpid(child, &status, 0) == child && status == 0);
      moved.word(7) = 4711;
    };
    const auto expect_all = [&] {
      for (std::size_t page = 0; page < kCount; ++page) {
        require_equal(moved.word(page), page == 7 ? 4711 : page + 1);
        require_equal(dropped.word(page), page < kCount / 2 ? 0 : page + 1);
      }
      unmapped.expect_untouched(kCount / 2, kCount);
    };
    call_on(node(), change, eager());
    expect_all();
    for (int i = 0; i < 2; ++i) call_on(node(), expect_all, eager());
    expect_all();
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACallAgain, KeepsMemoryThatTheFunctionMadeAndProtected) {
  Outcome outcome = run([this] {
    const Pages pages(kKeptSize);
    Pages* made = nullptr;
    for (int i = 0; i < 3; ++i) {
      call_on(
          node(),
          [&] {
            if (made == nullptr) made = new Pages(kKeptSize);
            made->expect_untouched(0, kCount);
            require(mprotect(pages.start, kKeptSize / 2, i % 2 == 0 ? PROT_READ : PROT_NONE) == 0);
          },
          eager());
      made->expect_untouched(0, kCount);
      require(mprotect(pages.start, kKeptSize / 2, i % 2 == 0 ? PROT_READ : PROT_NONE) == 0);
      pages.expect_untouched(kCount / 2, kCount);
    }
    require(mprotect(pages.start, kKeptSize, PROT_READ) == 0);
    pages.expect_untouched(0, kCount);
  });
  EXPECT_TRUE(went_well(outcome));
}

TEST_P(ACallToATelepadOfItsOwn, SendsAllToATelepadThatWasStartedAgain) {
  Program program = start([this] {
    call_twice([this] {
      make_file(path("home"));
      await_file(path("go"));
    });
  });
  expect_all_came(list(1));
  ASSERT_TRUE(file_comes(path("home")));
  const pid_t keeper = await_keeper_in_waiting();
  ASSERT_GT(keeper, 0) << describe_descendants();
  stop_telepad(SIGTERM);
  await_gone(keeper);
  start_telepad();
  make_file(path("go"));
  expect_all_came(list(2));
  EXPECT_TRUE(went_well(finish(program)));
}

TEST_P(ACallToATelepadOfItsOwn, SendsWhatTheNodeMayNotKeep) {
  for (const char* limit : {"0", "8192"}) {
    stop_telepad(SIGTERM);
    start_telepad([limit] { setenv("TELEFORK_KEEP_MEMORY_KB", limit, 1); });
    Program program = start([this] { call_twice([] {}); });
    list(1);
    const std::string listed = list(2);
    EXPECT_TRUE(went_well(finish(program)));
    const std::size_t kept = number_after(listed, "pages_kept");
    EXPECT_LE(kept, std::strtoull(limit, nullptr, 10) / 4) << listed;
    EXPECT_GE(number_after(listed, "pages_sent") + kept, kCount) << listed;
    for (const char* file : {"there1", "listed1", "there2", "listed2"}) unlink(path(file).c_str());
  }
}

TEST_P(ACallRepeated, SendsOnlyWhatWasWrittenToHereSince) {
  Program program = start([this] {
    const Pages pages(kKeptSize);
    const auto expect_all = [&](std::size_t calls) {
      for (std::size_t page = 0; page < kCount; ++page) {
        std::size_t expected = page + 1;
        if (page < 7000 && page % 700 == 0 && calls > 0) expected = 1000 * calls + page;
        if (page < 7000 && page % 700 == 1 && calls > 1) expected = calls;
        require_equal(pages.word(page), expected);
      }
    };
    for (std::size_t call : {1, 2, 3, 4}) {
      for (std::size_t i = 0; i < 10 && call > 1; ++i) pages.word(i * 700 + 1) = call - 1;
      if (call > 1) {
        for (std::size_t i = 0; i < 10; ++i) require_equal(pages.word(i * 700 + 1), call - 1);
      }
      call_on(
          node(),
          [&] {
            for (std::size_t i = 0; i < 10; ++i) {
              pages.word(i * 700) = 1000 * call + i * 700;
              if (call > 1) ++pages.word(i * 700 + 1);
            }
            if (call < 4) be_listed(static_cast<int>(call));
          },
          repeated());
      expect_all(call);
      settle(static_cast<int>(call));
    }
    require(is_watched() == watches());
    call_on(
        node(), [&] { expect_all(4); }, eager());
    require(!is_watched());
    expect_all(4);
  });
  expect_all_came(list(1));
  let_settle(1);
  for (int call : {2, 3}) {
    expect(node_keeps(), list(call));
    let_settle(call);
  }
  let_settle(4);
  EXPECT_TRUE(went_well(finish(program)));
}

TEST_P(ACallRepeated, KnowsNothingOfWhatWasDroppedMovedAndMadeMeanwhile) {
  Program program = start([this] {
    const Pages dropped(kKeptSize);
    Pages moved(kKeptSize);
    const Pages unmapped(kKeptSize);
    Pages over(kKeptSize);
    call_on(
        node(), [] {}, repeated());
    settle(1);
    require(madvise(dropped.start, kKeptSize / 2, MADV_DONTNEED) == 0);
    move_elsewhere(moved);
    map_anew(unmapped);
    unmapped.word(7) = 7;
    // What the node has there is something else.
    unsigned char* half = over.start + kKeptSize / 2;
    require(mremap(half, kKeptSize / 2, kKeptSize / 2, MREMAP_MAYMOVE | MREMAP_FIXED, over.start) ==
            over.start);
    const auto expect_all = [&] {
      for (std::size_t page = 0; page < kCount; ++page) {
        require_equal(dropped.word(page), page < kCount / 2 ? 0 : page + 1);
        require_equal(unmapped.word(page), page == 7 ? page : 0);
      }
      moved.expect_untouched(0, kCount);
      for (std::size_t page = 0; page < kCount / 2; ++page) {
        const std::size_t came = page + kCount / 2;
        require_equal(
            *reinterpret_cast<std::size_t*>(over.start + page * kPageOfMemory + came % 500 * 8),
            came + 1);
      }
    };
    for (int call : {2, 3}) {
      call_on(node(), expect_all, repeated());
      expect_all();
      settle(call);
    }
  });
  for (int call : {1, 2, 3}) let_settle(call);
  EXPECT_TRUE(went_well(finish(program)));
}

TEST_P(ACallRepeated, IsOfMemoryThatGoesEagerly) {
  Outcome outcome = run([this] {
    telefork::Options options = repeated();
    options.mode = telefork::Mode::lazy;
    const std::string error = error_of_call(
        node(), [] {}, options);
    require(error.find("repeat") != std::string::npos);
  });
  EXPECT_TRUE(went_well(outcome));
}

INSTANTIATE_TEST_SUITE_P(There, ACallRepeated,
                         testing::ValuesIn(nodes_under_test({"local", "unix", "tls"})),
                         name_of_node);

INSTANTIATE_TEST_SUITE_P(There, ACallAgain,
                         testing::ValuesIn(nodes_under_test({"local", "unix", "tls"})),
                         name_of_node);

INSTANTIATE_TEST_SUITE_P(There, ACallToATelepadOfItsOwn, testing::Values("tls"), name_of_node);

}  // namespace
}  // namespace fork_test
