// Deadlines from the seconds that Python gives.
//
// Thread-safety: pure.
#pragma once

#include <chrono>
#include <string>

#include "bind/bind.h"
#include "transport/connection.h"

namespace embery {

// Raises InvalidArgument unless 0 < timeout_s <= a day.
inline Deadline DeadlineAfter(double timeout_s) {
  if (!(timeout_s > 0) || timeout_s > 86400) {  // NaN too.
    ThrowIfError(Status::InvalidArgument("timeout_s must be above 0 and at most a day, got " +
                                         std::to_string(timeout_s)));
  }
  return std::chrono::steady_clock::now() +
         std::chrono::duration_cast<std::chrono::steady_clock::duration>(
             std::chrono::duration<double>(timeout_s));
}

}  // namespace embery
