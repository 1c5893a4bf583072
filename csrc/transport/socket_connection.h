// A client's connection over a socket that is open already.
//
// Thread-safety: as Connection says. Ownership: the connection owns its socket, and shares the
// memory for replies.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "transport/connection.h"
#include "transport/socket.h"
#include "wire/body.h"

namespace embery {

// Whether large bodies lie in shared memory or go through the socket.
enum class Sharing : uint8_t { kNothing, kMemory };

std::unique_ptr<Connection> MakeSocketConnection(Socket socket, std::string name,
                                                 std::shared_ptr<BodyPool> pool, Sharing sharing);

}  // namespace embery
