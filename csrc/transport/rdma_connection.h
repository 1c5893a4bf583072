// A client's connections over RDMA.
//
// Thread-safety: as Connector and Connection say. Ownership: the connections of a connector share
// its device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "transport/connection.h"
#include "transport/rdma_device.h"

namespace embery {

// Carries one end's address to a server over another channel, which lets in whom it may, and brings
// back the other's; it must keep a deadline of its own.
using RdmaExchange = std::function<Result<std::vector<std::byte>>(std::span<const std::byte>)>;

// kUnavailable if there is no device.
Result<std::unique_ptr<Connector>> MakeRdmaConnector(uint16_t server, const RdmaOptions& options,
                                                     RdmaExchange exchange, uint64_t client,
                                                     const std::string& secret);

}  // namespace embery
