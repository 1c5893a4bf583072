// The definition of a table from the plain values that `Table.to_dict()` gives, and other names.
//
// Thread-safety: call with the GIL held.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "batch/plan.h"
#include "table/spec.h"

namespace embery {

// "float32", "float16", "bfloat16" or "int8"; raises InvalidArgument, which begins with `what`.
ValueType ParseValueType(const std::string& what, const std::string& name);
const char* ValueTypeName(ValueType type);

// "sum", "mean" or "sqrtn"; raises InvalidArgument.
Pooling ParsePooling(const std::string& name);

// Raises InvalidArgument for an unknown kind; ranges were checked in Python.
TableSpec ParseTableSpec(const pybind11::dict& values);

}  // namespace embery
