// Until when a call may take.
//
// Thread-safety: values.
#pragma once

#include <chrono>

namespace embery {

using Deadline = std::chrono::steady_clock::time_point;

}  // namespace embery
