// What every transport must do, whatever carries it, and what tests of them are made of: a handler
// that gives back what it was sent, and exchanges with it.
//
// A Fixture has an echo, a pool, the stats and a listener, and makes connectors.
//
// Thread-safety: an Echo may be used from any thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/testing.h"
#include "transport/connection.h"
#include "transport/handler.h"
#include "transport/listener.h"
#include "wire/messages.h"

namespace embery {

inline const std::string kSecret(32, 's');

inline Deadline In(std::chrono::milliseconds time) {
  return std::chrono::steady_clock::now() + time;
}
inline Deadline Soon() { return In(std::chrono::seconds(30)); }

// Replies with the body; holds those of pushes back until it is told.
class Echo final : public Handler {
 public:
  Status CheckHello(const Request& hello) override {
    const Result<std::string_view> secret = DecodeHello(hello.body.bytes());
    if (secret.ok() && secret.value() == kSecret) return Status::Ok();
    return {StatusCode::kUnauthenticated, "wrong secret"};
  }
  Reply StatusReply(uint64_t request, const Status& status) override {
    ReplyHead head;
    head.code = status.code();
    const std::vector<std::byte> body = EncodeReplyHead(head, status.message(), {});
    Reply reply{std::vector<std::byte>(kHeaderBytes), Body()};
    EncodeHeader({FrameType::kReply, request, static_cast<uint32_t>(body.size())},
                 reply.head.data());
    reply.head.insert(reply.head.end(), body.begin(), body.end());
    return reply;
  }
  void Handle(Request request, Done done) override {
    Reply reply{std::vector<std::byte>(kHeaderBytes), std::move(request.body)};
    EncodeHeader(
        {FrameType::kReply, request.header.request, static_cast<uint32_t>(reply.rows.size())},
        reply.head.data());
    if (request.header.type == FrameType::kPull) {
      CopyInto(request.reply_space.get(), reply.rows);
      return done(std::move(reply));
    }
    const MutexLock lock(mutex_);
    held_.emplace_back(std::move(done), std::move(reply));
  }
  // Where rows would go that are not to be copied on their way.
  static void CopyInto(ReplySpace* space, Body& rows) {
    if (space == nullptr || rows.size() == 0) return;
    Body there = space->Take(0, rows.size());
    if (there.data() == nullptr) return;
    std::memcpy(there.data(), rows.data(), rows.size());
    rows = std::move(there);
  }
  void Release() {
    std::vector<std::pair<Done, Reply>> held;
    {
      const MutexLock lock(mutex_);
      held.swap(held_);
    }
    for (auto& [done, reply] : held) done(std::move(reply));
  }
  size_t held() {
    const MutexLock lock(mutex_);
    return held_.size();
  }

 private:
  Mutex mutex_;
  std::vector<std::pair<Done, Reply>> held_ GUARDED_BY(mutex_);
};

inline std::vector<std::byte> Pattern(size_t bytes, uint8_t seed) {
  std::vector<std::byte> data(bytes);
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(seed + i * 7 + i / 4096);
  return data;
}

// Sends in two pieces, the second made ready bit by bit; returns whether all came back.
inline Status Exchange(Connection& connection, FrameType type, const std::vector<std::byte>& data,
                       Deadline deadline) {
  const auto first = std::span<const std::byte>(data).first(data.size() / 3);
  const auto rest = std::span<const std::byte>(data).subspan(first.size());
  const std::span<const std::byte> body[] = {first, rest};
  EMBERY_RETURN_IF_ERROR(connection.Start(type, body, first.size()));
  const size_t step = data.size() / 5 + 1;
  for (size_t ready = first.size(); ready < data.size(); ready += step) {
    EMBERY_RETURN_IF_ERROR(connection.SetReady(ready));
  }
  EMBERY_RETURN_IF_ERROR(connection.SetReady(data.size()));
  while (true) {
    const Result<bool> done = connection.Advance();
    if (!done.ok()) return done.status();
    if (done.value()) break;
    const pollfd awaited = connection.Awaited();
    if (!WaitForAny({&awaited, 1}, deadline)) return {StatusCode::kDeadlineExceeded, "late"};
  }
  CHECK_EQ(connection.received_bytes(), data.size());
  CHECK_TRUE(
      std::equal(data.begin(), data.end(), connection.reply().begin(), connection.reply().end()));
  return Status::Ok();
}

template <typename Fixture>
void BodiesOfAllSizesComeBack(Fixture& fixture) {
  const auto connection = std::move(fixture.connector()->Open(Soon())).value();
  uint8_t seed = 0;
  for (const size_t bytes : {0U, 1U, 8U, 4095U, 300'000U, 20'000'000U, 5U}) {
    CHECK_TRUE(Exchange(*connection, FrameType::kPull, Pattern(bytes, ++seed), Soon()).ok());
  }
  CHECK_EQ(fixture.stats.accepted.load(), 1U);
  CHECK_TRUE(fixture.stats.bytes_in.load() > 20'300'000);
}

template <typename Fixture>
void ManyConnectionsAreServedAtOnce(Fixture& fixture) {
  std::vector<std::thread> threads;
  for (uint8_t t = 0; t < 16; ++t) {
    threads.emplace_back([&fixture, t] {
      const auto connection = std::move(fixture.connector()->Open(Soon())).value();
      for (uint8_t i = 0; i < 20; ++i) {
        const auto data = Pattern(size_t{i} * 9973, static_cast<uint8_t>(t + i));
        CHECK_TRUE(Exchange(*connection, FrameType::kPull, data, Soon()).ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(fixture.stats.accepted.load(), 16U);
}

template <typename Fixture>
void WrongSecretIsUnauthenticated(Fixture& fixture) {
  const auto connection = fixture.connector(std::string(32, 'x'))->Open(Soon());
  CHECK_TRUE(connection.status().code() == StatusCode::kUnauthenticated);
}

template <typename Fixture>
void ReplyThatIsHeldBackComesFromAnotherThread(Fixture& fixture) {
  const auto connection = std::move(fixture.connector()->Open(Soon())).value();
  std::thread releasing([&fixture] {
    while (fixture.echo.held() == 0) std::this_thread::yield();
    fixture.echo.Release();
  });
  CHECK_TRUE(Exchange(*connection, FrameType::kPush, Pattern(1000, 1), Soon()).ok());
  releasing.join();
  CHECK_TRUE(Exchange(*connection, FrameType::kPull, Pattern(1000, 2), Soon()).ok());
}

template <typename Fixture>
void ReplyToAClientThatLeftIsDropped(Fixture& fixture) {
  auto connection = std::move(fixture.connector()->Open(Soon())).value();
  const auto left =
      Exchange(*connection, FrameType::kPush, Pattern(1000, 1), In(std::chrono::milliseconds(5)));
  CHECK_TRUE(left.code() == StatusCode::kDeadlineExceeded);
  connection.reset();
  while (fixture.stats.connections.load() > 0 || fixture.echo.held() == 0) {
    std::this_thread::yield();
  }
  fixture.echo.Release();
  const auto next = std::move(fixture.connector()->Open(Soon())).value();
  CHECK_TRUE(Exchange(*next, FrameType::kPull, Pattern(10, 1), Soon()).ok());
}

template <typename Fixture>
void StopClosesConnectionsAndTheirCallersNotice(Fixture& fixture) {
  std::vector<std::thread> threads;
  for (uint8_t t = 0; t < 4; ++t) {
    threads.emplace_back([&fixture] {
      const auto connection = std::move(fixture.connector()->Open(Soon())).value();
      Status status;
      while (status.ok()) {
        status = Exchange(*connection, FrameType::kPull, Pattern(100'000, 1), Soon());
      }
      CHECK_TRUE(status.code() == StatusCode::kUnavailable);
    });
  }
  while (fixture.stats.bytes_out.load() < 4'000'000) std::this_thread::yield();
  fixture.listener->Stop();
  for (std::thread& thread : threads) thread.join();
  CHECK_EQ(fixture.stats.connections.load(), 0U);
  const Status refused = fixture.connector()->Open(Soon()).status();
  CHECK_TRUE(refused.code() == StatusCode::kUnavailable);
}

template <typename Fixture>
void BodyWrittenIntoPlaceIsSentFromThere(Fixture& fixture) {
  const auto connection = std::move(fixture.connector()->Open(Soon())).value();
  for (const size_t bytes : {20'000U, 3'000'000U, 17'000U}) {
    const auto data = Pattern(bytes, 9);
    std::byte* place = connection->Place(bytes);
    std::copy(data.begin(), data.end(), place);
    const std::span<const std::byte> body[] = {{place, 1000}, {place + 1000, bytes - 1000}};
    CHECK_TRUE(connection->Start(FrameType::kPull, body, bytes).ok());
    Result<bool> done = false;
    while (!(done = connection->Advance()).value()) {
      const pollfd awaited = connection->Awaited();
      CHECK_TRUE(WaitForAny({&awaited, 1}, Soon()));
    }
    CHECK_TRUE(std::equal(data.begin(), data.end(), connection->reply().begin()));
  }
  CHECK_TRUE(connection->Place(100) == nullptr);
}

}  // namespace embery
