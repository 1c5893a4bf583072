// A Python callable of bytes to bytes, called from native threads.
//
// Thread-safety: made with the GIL held; called and destroyed by any thread, without it. Ownership:
// shares the Python object.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <functional>
#include <span>

#include "base/status.h"

namespace embery {

class Callable {
 public:
  explicit Callable(const pybind11::function& call) : call_(new pybind11::function(call)) {}
  ~Callable();
  Callable(const Callable&) = delete;
  Callable& operator=(const Callable&) = delete;

  // Hands what comes back to `use`, with the GIL held. One of Embery's errors keeps its code.
  Status Call(std::span<const std::byte> argument,
              const std::function<Status(std::span<const std::byte>)>& use) const;

 private:
  const pybind11::function* const call_;
};

}  // namespace embery
