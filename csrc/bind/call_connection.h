// A server reached through a Python callable, which carries a frame there and the reply back: the
// data path of last resort, in band of the control plane.
//
// Thread-safety: as Connector and Connection say. Each request runs the callable on a thread of its
// own, so that several servers are asked at once. Ownership: shares the callable with what is under
// way, which may end after the connection that began it.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>

#include "transport/connection.h"

namespace embery {

// Call with the GIL held.
std::unique_ptr<Connector> MakeCallConnector(uint16_t server, const pybind11::function& call);

}  // namespace embery
