// The definition of a table from the plain values that `Table.to_dict()` gives.
//
// Thread-safety: call with the GIL held.
#pragma once

#include <pybind11/pybind11.h>

#include "table/spec.h"

namespace embery {

// Raises InvalidArgument for an unknown kind; ranges were checked in Python.
TableSpec ParseTableSpec(const pybind11::dict& values);

}  // namespace embery
