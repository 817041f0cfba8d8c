#include "gearshift/transport/handshake.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <optional>
#include <set>

namespace gearshift::transport {
namespace {

using base::ErrorCode;
using base::Rank;
using base::Result;
using base::Status;
using base::TimePoint;

/// Two byte queues; end 0 and end 1 of one line.
class Line {
 public:
  explicit Line(base::Scheduler& scheduler) : monitor_(scheduler.make_monitor()) {}

  class End final : public ByteStream {
   public:
    End(Line& line, std::size_t side) : line_(line), side_(side) {}
    Status read_exact(base::Bytes into, TimePoint deadline) override {
      std::lock_guard<base::Monitor> lock(*line_.monitor_);
      auto& queue = line_.queues_[side_];
      for (auto& byte : into) {
        while (queue.empty()) {
          if (line_.closed_) return base::Error(ErrorCode::kIo, "closed");
          if (!line_.monitor_->wait_until(deadline) && queue.empty()) {
            return base::Error(ErrorCode::kTimeout, "silence");
          }
        }
        byte = queue.front();
        queue.pop_front();
      }
      return {};
    }
    Status write_all(base::ConstBytes from, TimePoint) override {
      std::lock_guard<base::Monitor> lock(*line_.monitor_);
      auto& queue = line_.queues_[1 - side_];
      queue.insert(queue.end(), from.begin(), from.end());
      sent.insert(sent.end(), from.begin(), from.end());
      line_.monitor_->notify_all();
      return {};
    }
    void close() {
      std::lock_guard<base::Monitor> lock(*line_.monitor_);
      line_.closed_ = true;
      line_.monitor_->notify_all();
    }
    std::vector<std::byte> sent;

   private:
    Line& line_;
    const std::size_t side_;
  };

 private:
  std::unique_ptr<base::Monitor> monitor_;
  std::array<std::deque<std::byte>, 2> queues_;
  bool closed_ = false;
};

class HandshakeTest : public ::testing::Test {
 protected:
  struct Outcome {
    std::optional<Result<Hello>> client;
    std::optional<Result<Hello>> server;
  };

  /// The client's hello and token, against the server's.
  Outcome run(const Hello& client_hello, const std::string& client_token, const Hello& server_hello,
              const std::string& server_token) {
    Outcome outcome;
    auto task = scheduler->spawn("server", [&] {
      outcome.server = handshake_as_server(server_end, server_hello, server_token, soon());
      server_end.close();
    });
    outcome.client = handshake_as_client(client_end, client_hello, client_token, soon());
    client_end.close();
    task->join();
    return outcome;
  }
  TimePoint soon() const { return scheduler->after(std::chrono::seconds(60)); }

  std::unique_ptr<base::Scheduler> scheduler = base::make_os_scheduler();
  Line line{*scheduler};
  Line::End client_end{line, 0};
  Line::End server_end{line, 1};
  Hello client{.purpose = kPurposeLink, .rank = Rank(1), .stream = 3, .link = 77};
  Hello server{.purpose = kPurposeLink, .rank = Rank(2)};
};

TEST_F(HandshakeTest, EachLearnsWhoTheOtherIs) {
  const auto outcome = run(client, "secret", server, "secret");
  ASSERT_TRUE(outcome.client->ok()) << outcome.client->error().to_string();
  ASSERT_TRUE(outcome.server->ok()) << outcome.server->error().to_string();
  EXPECT_EQ((**outcome.client).rank, Rank(2));
  EXPECT_EQ((**outcome.server).rank, Rank(1));
  EXPECT_EQ((**outcome.server).stream, 3U);
  EXPECT_EQ((**outcome.server).link, 77U);
}

TEST_F(HandshakeTest, AWrongTokenIsRefusedOnBothSides) {
  const auto outcome = run(client, "secret", server, "another");
  ASSERT_FALSE(outcome.client->ok());
  ASSERT_FALSE(outcome.server->ok());
  EXPECT_EQ(outcome.client->error().code, ErrorCode::kUnauthenticated);
  EXPECT_EQ(outcome.server->error().code, ErrorCode::kUnauthenticated);
}

TEST_F(HandshakeTest, AnEmptyTokenIsNoSkeletonKey) {
  EXPECT_FALSE(run(client, "", server, "secret").server->ok());
}

TEST_F(HandshakeTest, ADifferentVersionIsNamedOnBothSides) {
  client.version = 9;
  const auto outcome = run(client, "secret", server, "secret");
  for (const auto* side : {&outcome.client, &outcome.server}) {
    ASSERT_FALSE((*side)->ok());
    EXPECT_EQ((*side)->error().code, ErrorCode::kMismatch);
    EXPECT_NE((*side)->error().message.find('9'), std::string::npos);
    EXPECT_NE((*side)->error().message.find(std::to_string(kProtocolVersion)), std::string::npos);
  }
}

TEST_F(HandshakeTest, PurposeAndGenerationMustAgree) {
  Hello other = client;
  other.purpose = kPurposeStore;
  EXPECT_EQ(run(other, "secret", server, "secret").server->error().code, ErrorCode::kMismatch);
}

TEST_F(HandshakeTest, GenerationsMustAgree) {
  client.generation = base::Generation(4);
  const auto outcome = run(client, "secret", server, "secret");
  EXPECT_EQ(outcome.server->error().code, ErrorCode::kMismatch);
  EXPECT_EQ(outcome.client->error().code, ErrorCode::kMismatch);
}

TEST_F(HandshakeTest, GarbageIsRecognisedByItsFirstBytes) {
  const std::string garbage = "GET / HTTP/1.1\r\n";
  ASSERT_TRUE(client_end.write_all(base::bytes_of(std::span<const char>(garbage)), soon()).ok());
  const auto refused = handshake_as_server(server_end, server, "secret", soon());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnauthenticated);
  EXPECT_TRUE(server_end.sent.empty()) << "garbage gets no answer";
}

TEST_F(HandshakeTest, SilenceEndsAtTheDeadline) {
  const auto refused = handshake_as_server(server_end, server, "secret", scheduler->now());
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kTimeout);
}

TEST_F(HandshakeTest, AReflectedProofIsNoProof) {
  // The "server" echoes whatever it gets: greeting, then proof, padded to the answer's size.
  auto task = scheduler->spawn("mirror", [&] {
    std::byte byte{};
    while (server_end.read_exact({&byte, 1}, soon()).ok()) {
      (void)server_end.write_all({&byte, 1}, soon());
      if (server_end.sent.size() == 72) {  // the greeting; now "welcome", then the proof itself
        const std::uint32_t welcome = 1;
        (void)server_end.write_all(base::bytes_of(welcome), soon());
      }
    }
  });
  const auto refused = handshake_as_client(client_end, client, "secret", soon());
  client_end.close();
  task->join();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnauthenticated);
}

TEST_F(HandshakeTest, TheTokenNeverTravels) {
  const std::string token = make_token();
  ASSERT_TRUE(run(client, token, server, token).client->ok());
  for (const auto& sent : {client_end.sent, server_end.sent}) {
    const std::string text(reinterpret_cast<const char*>(sent.data()), sent.size());
    EXPECT_EQ(text.find(token), std::string::npos);
  }
}

TEST(MakeToken, IsLongAndNeverTheSame) {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const std::string token = make_token();
    EXPECT_EQ(token.size(), 64U);
    EXPECT_EQ(token.find_first_not_of("0123456789abcdef"), std::string::npos);
    EXPECT_TRUE(seen.insert(token).second);
  }
}

/// Called by exit() when OpenSSL has gone, as threads of open sessions may be about to greet then.
void greet_too_late() {
  class Nobody final : public ByteStream {
    Status read_exact(base::Bytes, TimePoint) override { return gone(); }
    Status write_all(base::ConstBytes, TimePoint) override { return gone(); }
    static Status gone() { return base::Error(ErrorCode::kIo, "nobody is there"); }
  } nobody;
  const auto greeted = handshake_as_client(nobody, {}, "secret", TimePoint());
  std::fputs(greeted.error().message.c_str(), stderr);
}

TEST(HandshakeDeathTest, AtTheEndOfAProcessIsRefused) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // in a process that has not used OpenSSL yet
  const auto end = [] {
    std::atexit(&greet_too_late);
    make_token();
    std::exit(7);
  };
  EXPECT_EXIT(end(), ::testing::ExitedWithCode(7), "this process is ending");
}

}  // namespace
}  // namespace gearshift::transport
