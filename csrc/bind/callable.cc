#include "bind/callable.h"

#include <string>
#include <string_view>

namespace py = pybind11;

namespace embery {
namespace {

StatusCode CodeOf(const py::error_already_set& error) {
  const py::object table = py::module_::import("embery.errors").attr("FROM_STATUS");
  for (const StatusCode code : kAllErrorCodes) {
    if (error.matches(table[StatusCodeName(code)])) return code;
  }
  return StatusCode::kInternal;
}

}  // namespace

Callable::~Callable() {
  const py::gil_scoped_acquire gil;
  delete call_;
}

Status Callable::Call(std::span<const std::byte> argument,
                      const std::function<Status(std::span<const std::byte>)>& use) const {
  const py::gil_scoped_acquire gil;
  try {
    const py::object reply =
        (*call_)(py::bytes(reinterpret_cast<const char*>(argument.data()), argument.size()));
    if (!py::isinstance<py::bytes>(reply)) return Status::Internal("the call returned no bytes");
    const auto text = reply.cast<std::string_view>();
    return use(std::as_bytes(std::span<const char>(text)));
  } catch (const py::error_already_set& error) {
    return {CodeOf(error), py::str(error.value()).cast<std::string>()};
  }
}

}  // namespace embery
