#include "bind/bind.h"

namespace py = pybind11;

namespace embery {

void Throw(const Status& status) {
  const py::object table = py::module_::import("embery.errors").attr("FROM_STATUS");
  const py::object kind = table[StatusCodeName(status.code())];
  PyErr_SetString(kind.ptr(), status.message().c_str());
  throw py::error_already_set();
}

void ThrowIfError(const Status& status) {
  if (!status.ok()) Throw(status);
}

}  // namespace embery

PYBIND11_MODULE(_native, module) {
  module.doc() =
      "The native core of Embery: tables, batches, frozen tables, hashing, servers and clients.";
  embery::BindBatch(module);
  embery::BindClient(module);
  embery::BindFrozen(module);
  embery::BindHash(module);
  embery::BindRowArrays(module);
  embery::BindStore(module);
  embery::BindServer(module);  // Its signatures name Store.
}
