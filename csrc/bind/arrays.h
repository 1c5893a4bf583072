// NumPy arrays in and out of the native core, without copies.
//
// Thread-safety: call with the GIL held. Ownership: an array made from a vector owns it; the data
// of an argument belong to the caller's array, which must outlive the call.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "bind/bind.h"

namespace embery {

// The elements of a C-contiguous argument of exactly dtype T; raises InvalidArgument otherwise.
template <typename T>
const T* ArrayData(const pybind11::array& array, const char* name) {
  if (!pybind11::isinstance<pybind11::array_t<T>>(array) ||
      (array.flags() & pybind11::array::c_style) == 0) {
    ThrowIfError(Status::InvalidArgument(
        std::string(name) + " must be a C-contiguous array of " +
        pybind11::str(pybind11::dtype::of<T>()).template cast<std::string>() + ", got " +
        pybind11::str(array.dtype()).cast<std::string>()));
  }
  return static_cast<const T*>(array.data());
}

template <typename T>
std::span<const T> View(const pybind11::array& array, const char* name) {
  return {ArrayData<T>(array, name), static_cast<size_t>(array.size())};
}

template <typename T>
T* MutableArrayData(const pybind11::array& array, const char* name) {
  const T* data = ArrayData<T>(array, name);
  if (!array.writeable()) {
    ThrowIfError(Status::InvalidArgument(std::string(name) + " must be writable"));
  }
  return const_cast<T*>(data);
}

// Requires rows of shape (count, dim); `what` names them in the error.
inline void RequireRows(const pybind11::array& rows, size_t count, size_t dim,
                        const std::string& what) {
  if (rows.ndim() == 2 && rows.shape(0) == static_cast<pybind11::ssize_t>(count) &&
      rows.shape(1) == static_cast<pybind11::ssize_t>(dim)) {
    return;
  }
  ThrowIfError(Status::InvalidArgument(what + " must have shape (" + std::to_string(count) + ", " +
                                       std::to_string(dim) + "), got " +
                                       pybind11::str(rows.attr("shape")).cast<std::string>()));
}

template <typename T>
pybind11::array_t<T> ToArray(std::vector<T>&& values, std::vector<pybind11::ssize_t> shape) {
  auto* owned = new std::vector<T>(std::move(values));
  const pybind11::capsule owner(owned,
                                [](void* data) { delete static_cast<std::vector<T>*>(data); });
  return pybind11::array_t<T>(std::move(shape), owned->data(), owner);
}

template <typename T>
pybind11::array_t<T> ToArray(std::vector<T>&& values) {
  const auto size = static_cast<pybind11::ssize_t>(values.size());
  return ToArray(std::move(values), {size});
}

}  // namespace embery
