#include "transport/connection.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <vector>

namespace embery {

int MillisecondsUntil(Deadline deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::clamp<int64_t>(left.count(), 0, INT_MAX));
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
