// A client's connections over sockets: TCP, or a Unix socket with shared memory for large bodies.
//
// Thread-safety: as Connector and Connection say. Ownership: a connection owns its socket, and
// shares the memory for replies with the others of its connector.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "transport/connection.h"

namespace embery {

struct TcpAddress {
  uint16_t server;
  std::string host;
  uint16_t port;
  std::string bind;  // Local address to connect from; empty leaves it to the system.
};

std::unique_ptr<Connector> MakeTcpConnector(const TcpAddress& address, uint64_t client,
                                            const std::string& secret);

struct ShmAddress {
  uint16_t server;
  std::string socket;  // Its name among the abstract ones.
};

std::unique_ptr<Connector> MakeShmConnector(const ShmAddress& address, uint64_t client,
                                            const std::string& secret);

}  // namespace embery
