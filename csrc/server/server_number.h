// The number of a server in the routing.
//
// Thread-safety: values.
#pragma once

#include <cstdint>

namespace embery {

using ServerNumber = uint16_t;
// Of a slot that has no backup.
inline constexpr ServerNumber kNoServer = UINT16_MAX;

}  // namespace embery
