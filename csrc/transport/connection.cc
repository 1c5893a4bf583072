#include "transport/connection.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <vector>

#include "wire/messages.h"

namespace embery {

int MillisecondsUntil(Deadline deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, INT_MAX));
}

Status NotLetIn(const std::string& name) {
  return {StatusCode::kDeadlineExceeded, name + " did not let the client in in time"};
}

Status Greet(Connection& connection, std::span<const std::byte> hello, const std::string& name,
             Deadline deadline) {
  EMBERY_RETURN_IF_ERROR(connection.Start(FrameType::kHello, {&hello, 1}, hello.size()));
  while (true) {
    const Result<bool> done = connection.Advance();
    if (!done.ok()) return done.status();
    if (done.value()) break;
    const pollfd awaited = connection.Awaited();
    if (!WaitForAny({&awaited, 1}, deadline)) return NotLetIn(name);
  }
  const Result<ReplyMessage> reply = DecodeReply(connection.reply());
  if (!reply.ok()) return Status::Internal(name + ": " + reply.status().message());
  if (reply.value().head.code == StatusCode::kOk) return Status::Ok();
  return {reply.value().head.code, name + ": " + std::string(reply.value().text)};
}

bool WaitForAny(std::span<const pollfd> awaited, Deadline deadline) {
  std::vector<pollfd> fds(awaited.begin(), awaited.end());
  while (true) {
    const int left_ms = MillisecondsUntil(deadline);
    const int ready = poll(fds.data(), fds.size(), left_ms);
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return true;  // Advance finds out what is wrong.
    if (ready == 0 && left_ms == 0) return false;
  }
}

}  // namespace embery
