#include "protocol/handshake.h"

#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/testing_error.h"
#include "net/fd_stream.h"
#include "net/memory_stream.h"
#include "protocol/test_machine.h"

namespace telefork::protocol {
namespace {

using net::Deadline;
using net::MemoryStream;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

// What a server at `there` answers to a client, as bytes.
std::vector<std::byte> reply_bytes(const TestMachine& there, const FillReply& fill) {
  MemoryStream stream;
  send_hello_reply(stream, there.reader(), fill, Deadline::never());
  return stream.written();
}

std::vector<std::byte> hello_bytes(const TestMachine& here, const FillHello& fill) {
  // The reply never comes: only what was said is of interest.
  MemoryStream stream;
  EXPECT_EQ(
      error_of([&] { say_hello(stream, "n", here.reader(), fill, Deadline::never()); }).code(),
      Code::kLost);
  return stream.written();
}

TEST(Handshake, TellsEachSideTheOthersMachine) {
  TestMachine here("here");
  TestMachine there("there");
  MemoryStream server(hello_bytes(here, [](auto hello) { hello.setUser("eve"); }));
  ReceivedHello hello = receive_hello(server, Deadline::never());
  EXPECT_NO_THROW(check_hello(*hello, there.reader()));
  EXPECT_STREQ(hello->getUser().cStr(), "eve");
  EXPECT_STREQ(hello->getMachine().getHostname().cStr(), "here");

  MemoryStream client(reply_bytes(there, {}));
  auto reply = say_hello(client, "node7", here.reader(), {}, Deadline::never());
  EXPECT_STREQ(reply->getMachine().getHostname().cStr(), "there");
}

TEST(Handshake, ReadsNotOneByteTooMany) {
  auto bytes = hello_bytes(TestMachine("here"), {});
  bytes.resize(bytes.size() + 3);
  MemoryStream server(bytes);
  receive_hello(server, Deadline::never());
  EXPECT_EQ(server.unread(), 3U);
}

TEST(Handshake, IsLostWhereverItIsCutAndWorksInShortReads) {
  auto bytes = hello_bytes(TestMachine("here"), {});
  for (std::size_t cut = 0; cut < bytes.size(); ++cut) {
    net::FaultyStream server(std::make_unique<MemoryStream>(bytes),
                             {.cut_read_after = cut, .longest_read = 1});
    EXPECT_EQ(error_of([&] { receive_hello(server, Deadline::never()); }).code(), Code::kLost);
  }
  net::FaultyStream server(std::make_unique<MemoryStream>(bytes), {.longest_read = 1});
  EXPECT_NO_THROW(receive_hello(server, Deadline::never()));
}

TEST(Handshake, CallsGarbageCorruptAtTheFirstWrongByte) {
  for (std::string_view text : {"GET / HTTP/1.1\r\n\r\n", "T", "SSH-2.0-OpenSSH"}) {
    std::vector<std::byte> bytes;
    for (char c : text) bytes.push_back(static_cast<std::byte>(c));
    MemoryStream server(bytes);
    EXPECT_EQ(error_of([&] { receive_hello(server, Deadline::never()); }).code(),
              text == "T" ? Code::kLost : Code::kCorrupt);
  }
}

TEST(Handshake, CapsTheLengthBeforeMemoryIsTaken) {
  auto bytes = hello_bytes(TestMachine("here"), {});
  for (int i = 8; i < 12; ++i) bytes[static_cast<std::size_t>(i)] = std::byte{0xff};
  MemoryStream server(bytes);
  EXPECT_EQ(error_of([&] { receive_hello(server, Deadline::never()); }).code(), Code::kCorrupt);
}

TEST(Handshake, TakesOrRefusesAHelloWithAnyBitFlipped) {
  const auto bytes = hello_bytes(TestMachine("here"), {});
  for (std::size_t i = 12 * 8; i < bytes.size() * 8; ++i) {
    auto flipped = bytes;
    flipped[i / 8] ^= static_cast<std::byte>(1U << (i % 8));
    MemoryStream server(flipped);
    try {
      receive_hello(server, Deadline::never());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kCorrupt) << error.text();
    }
  }
}

TEST(Handshake, RefusesAnotherLinkFormatNamingBoth) {
  auto bytes = hello_bytes(TestMachine("here"), {});
  bytes[7] = std::byte{'9'};
  MemoryStream server(bytes);
  Error error = error_of([&] { receive_hello(server, Deadline::never()); });
  EXPECT_EQ(error.code(), Code::kRefused);
  EXPECT_THAT(error.text(), HasSubstr("09 there and 01 here"));
}

TEST(Handshake, RefusesAnotherVersionOnBothSidesNamingBoth) {
  TestMachine here("here");
  MemoryStream server(hello_bytes(here, [](auto hello) { hello.setVersion(7); }));
  ReceivedHello hello = receive_hello(server, Deadline::never());
  Error error = error_of([&] { check_hello(*hello, here.reader()); });
  EXPECT_EQ(error.code(), Code::kRefused);
  EXPECT_THAT(error.text(),
              HasSubstr(fmt::format("version 7 there and {} here", kProtocolVersion)));

  MemoryStream client(reply_bytes(here, [](auto reply) { reply.setVersion(8); }));
  error = error_of([&] { say_hello(client, "node7", here.reader(), {}, Deadline::never()); });
  EXPECT_EQ(error.code(), Code::kRefused);
  EXPECT_THAT(error.text(),
              HasSubstr(fmt::format("node7: the protocol is version 8 there and {} here",
                                    kProtocolVersion)));
}

TEST(Handshake, RefusesAnotherArchitectureOnBothSidesNamingBoth) {
  TestMachine here("here");
  TestMachine there("there", "aarch64");
  MemoryStream server(hello_bytes(here, {}));
  ReceivedHello hello = receive_hello(server, Deadline::never());
  Error error = error_of([&] { check_hello(*hello, there.reader()); });
  EXPECT_EQ(error.code(), Code::kRefused);
  EXPECT_THAT(error.text(), HasSubstr("x86_64 there and aarch64 here"));

  MemoryStream client(reply_bytes(there, {}));
  error = error_of([&] { say_hello(client, "node7", here.reader(), {}, Deadline::never()); });
  EXPECT_EQ(error.code(), Code::kRefused);
  EXPECT_THAT(error.text(), HasSubstr("aarch64 there and x86_64 here"));
}

TEST(Handshake, AnswersAQueryFromAnotherArchitecture) {
  TestMachine here("here");
  TestMachine there("there", "aarch64");
  auto query = [](schema::Hello::Builder hello) { hello.setRole(schema::Hello::Role::QUERY); };
  MemoryStream server(hello_bytes(here, query));
  EXPECT_NO_THROW(check_hello(*receive_hello(server, Deadline::never()), there.reader()));
  MemoryStream client(reply_bytes(there, {}));
  EXPECT_NO_THROW(say_hello(client, "node7", here.reader(), query, Deadline::never()));
}

TEST(Handshake, RefusesAFenceThatNamesNoSession) {
  TestMachine here("here");
  MemoryStream client;
  send_hello(
      client, here.reader(),
      [](schema::Hello::Builder hello) { hello.setRole(schema::Hello::Role::FENCE); },
      Deadline::never());
  MemoryStream server(client.written());
  ReceivedHello hello = receive_hello(server, Deadline::never());
  Error error = error_of([&] { check_hello(*hello, here.reader()); });
  EXPECT_EQ(error.code(), Code::kCorrupt);

  MemoryStream named(hello_bytes(here, [](schema::Hello::Builder fence) {
    fence.setRole(schema::Hello::Role::FENCE);
    fence.initToken(kTokenSize);
  }));
  EXPECT_NO_THROW(check_hello(*receive_hello(named, Deadline::never()), here.reader()));
}

TEST(Handshake, ThrowsTheRefusalOfTheOtherEnd) {
  TestMachine here("here");
  MemoryStream server;
  send_hello_refusal(server, here.reader(), Error(Code::kUnauthorised, "no account 'eve'"),
                     Deadline::never());
  MemoryStream client(server.written());
  Error error = error_of([&] { say_hello(client, "node7", here.reader(), {}, Deadline::never()); });
  EXPECT_EQ(error.code(), Code::kUnauthorised);
  EXPECT_EQ(error.text(), "node7: no account 'eve'");
}

TEST(Handshake, GivesUpOnASilentPeer) {
  auto [one, other] = net::make_stream_pair();
  EXPECT_EQ(error_of([&, &end = one] { receive_hello(*end, Deadline::in(1ms)); }).error(),
            ETIMEDOUT);
}

TEST(Handshake, TellsWhatBecameOfWhoDoesNotGreet) {
  TestMachine here("here");
  auto pair = net::make_stream_pair();
  auto told = [&](Deadline deadline) {
    return error_of([&] { say_hello(*pair.first, "node7", here.reader(), {}, deadline); });
  };
  Error silent = told(Deadline::in(1ms));
  EXPECT_THAT(silent.text(), ::testing::StartsWith("node7: it was reached and does not answer"));
  EXPECT_EQ(silent.error(), ETIMEDOUT);
  constexpr std::string_view kMail = "220 ready!\r\n";  // as long as the head of a greeting
  pair.second->write_all(std::as_bytes(std::span(kMail)), Deadline::never());
  Error talks = told(Deadline::in(10s));
  EXPECT_EQ(talks.text(), "node7: it answers, but is no telepad; name where a telepad listens");
  pair.second->shutdown_write();
  Error ends = told(Deadline::in(10s));
  EXPECT_THAT(ends.text(), HasSubstr("node7: it has closed the connection without an answer"));
}

TEST(Handshake, MakesTokensThatDiffer) {
  auto one = make_token();
  EXPECT_TRUE(same_token(one, one));
  EXPECT_FALSE(same_token(one, make_token()));
  EXPECT_FALSE(same_token(one, std::span(one).first(15)));
  EXPECT_FALSE(same_token({}, {}));
}

// A telepad with one session: answers a hello, then the join that names its token.
void serve_session(net::Stream& control, net::Stream& bulk, const TestMachine& machine) {
  auto token = make_token();
  auto deadline = Deadline::in(10s);
  check_hello(*receive_hello(control, deadline), machine.reader());
  send_hello_reply(
      control, machine.reader(),
      [&](schema::HelloReply::Builder reply) {
        reply.setToken({reinterpret_cast<const kj::byte*>(token.data()), token.size()});
        reply.initFeatures(1).set(0, std::string(kFeatureJoin));
      },
      deadline);
  ReceivedHello join = receive_hello(bulk, deadline);
  check_hello(*join, machine.reader());
  EXPECT_EQ(join->getRole(), schema::Hello::Role::JOIN);
  EXPECT_TRUE(same_token(token, std::as_bytes(std::span(join->getToken().begin(), kTokenSize))));
  send_hello_reply(bulk, machine.reader(), {}, deadline);
}

TEST(Handshake, JoinsABulkConnectionToItsSession) {
  auto [client_control, server_control] = net::make_stream_pair();
  auto [client_bulk, server_bulk] = net::make_stream_pair();
  TestMachine machine("there");
  std::jthread server([&machine, &control = *server_control, &bulk = *server_bulk] {
    serve_session(control, bulk, machine);
  });
  std::vector<std::unique_ptr<net::Stream>> streams;
  streams.push_back(std::move(client_bulk));
  streams.push_back(std::move(client_control));
  auto connect = [&] {
    auto stream = std::move(streams.back());
    streams.pop_back();
    return stream;
  };
  OpenedLink opened = open_link("node7", connect, {}, machine.reader(), {}, Deadline::in(10s));
  EXPECT_TRUE(opened.link->has_bulk_stream());
  EXPECT_GE(opened.link->bulk_fd(), 0);
}

TEST(Handshake, OpensABulkConnectionThatJoinsByItself) {
  auto [client_control, server_control] = net::make_stream_pair();
  auto [client_bulk, server_bulk] = net::make_stream_pair();
  TestMachine machine("there");
  auto id = make_token(kJoinIdSize);
  auto secret = make_token(kJoinSecretSize);
  std::jthread server([&, &control = *server_control] {
    receive_hello(control, Deadline::in(10s));
    send_hello_reply(
        control, machine.reader(),
        [&](schema::HelloReply::Builder reply) {
          reply.setJoinId({reinterpret_cast<const kj::byte*>(id.data()), id.size()});
          reply.setJoinSecret({reinterpret_cast<const kj::byte*>(secret.data()), secret.size()});
          reply.initFeatures(1).set(0, std::string(kFeatureTlsJoin));
        },
        Deadline::in(10s));
  });
  OpenedLink opened = open_link(
      "node7", [&control = client_control] { return std::move(control); },
      [&, &bulk = client_bulk](const schema::HelloReply::Reader& reply) {
        EXPECT_TRUE(same_token(id, std::as_bytes(std::span(reply.getJoinId().begin(), 16))));
        EXPECT_TRUE(
            same_token(secret, std::as_bytes(std::span(reply.getJoinSecret().begin(), 32))));
        return std::move(bulk);
      },
      machine.reader(), {}, Deadline::in(10s));
  EXPECT_TRUE(opened.link->has_bulk_stream());
}

TEST(Handshake, FindsANodeUnreachableUntilItHasAnswered) {
  TestMachine here("here");
  TestMachine there("there");
  auto bytes = reply_bytes(there, {});
  for (std::size_t cut = 0; cut < bytes.size(); ++cut) {
    auto connect = [&]() -> std::unique_ptr<net::Stream> {
      return std::make_unique<net::FaultyStream>(std::make_unique<MemoryStream>(bytes),
                                                 net::Faults{.cut_read_after = cut});
    };
    EXPECT_EQ(error_of([&] {
                open_link("node7", connect, {}, here.reader(), {}, Deadline::never());
              }).code(),
              Code::kUnreachable);
  }
}

TEST(Handshake, HasLostANodeThatDoesNotAnswerAgain) {
  TestMachine here("here");
  TestMachine there("there");
  auto bytes = reply_bytes(
      there, [](auto reply) { reply.initFeatures(1).set(0, std::string(kFeatureJoin)); });
  auto ask = [&](const Error* at_join) {
    int connections = 0;
    auto connect = [&]() -> std::unique_ptr<net::Stream> {
      if (++connections == 1) return std::make_unique<MemoryStream>(bytes);
      if (at_join != nullptr) throw *at_join;
      return std::make_unique<MemoryStream>();
    };
    return error_of([&] { open_link("node7", connect, {}, here.reader(), {}, Deadline::never()); })
        .code();
  };
  const Error unreachable(Code::kUnreachable, "nobody listens");
  EXPECT_EQ(ask(&unreachable), Code::kLost);
  EXPECT_EQ(ask(nullptr), Code::kLost);
}

TEST(Handshake, NamesTheNodeOnce) {
  TestMachine here("here");
  for (std::string name : {"node7", "memory"}) {  // the stream's own is "memory"
    MemoryStream client;
    Error error = error_of([&] { say_hello(client, name, here.reader(), {}, Deadline::never()); });
    EXPECT_THAT(error.text(), ::testing::StartsWith(name + ": "));
    EXPECT_THAT(error.text(), ::testing::Not(HasSubstr("memory: memory")));
  }
}

}  // namespace
}  // namespace telefork::protocol
