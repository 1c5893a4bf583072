// What the binding files share: their entry points, and the way from a Status to a Python
// exception.
//
// Thread-safety: call with the GIL held.
#pragma once

#include <pybind11/pybind11.h>

#include "base/status.h"

namespace embery {

// Throws the Python exception that embery.errors.FROM_STATUS names for the code of an error.
[[noreturn]] void Throw(const Status& status);

// Throws unless the status is OK.
void ThrowIfError(const Status& status);

void BindBatch(pybind11::module_& module);
void BindClient(pybind11::module_& module);
void BindFrozen(pybind11::module_& module);
void BindHash(pybind11::module_& module);
void BindStore(pybind11::module_& module);
void BindRowArrays(pybind11::module_& module);
void BindServer(pybind11::module_& module);

}  // namespace embery
