// Strings in Arrow buffers to keys, for embery.data; the salt of a table's name.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "batch/murmur3.h"
#include "bind/bind.h"

namespace py = pybind11;

namespace embery {
namespace {

template <typename Offset>
using Offsets = py::array_t<Offset, py::array::c_style>;
using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Keys = py::array_t<uint64_t>;

template <typename T, int Flags>
std::span<const T> View(const py::array_t<T, Flags>& array) {
  return {array.data(), static_cast<size_t>(array.size())};
}

// Runs `work(column, keys)` without the GIL and returns the keys it filled.
template <typename Offset, typename Work>
Keys ToKeys(const Offsets<Offset>& offsets, const Bytes& bytes, Work work) {
  const StringColumn<Offset> column{View(offsets), View(bytes)};
  Keys keys(static_cast<py::ssize_t>(column.size()));
  const std::span<uint64_t> out(keys.mutable_data(), column.size());
  Status status;
  {
    const py::gil_scoped_release release;
    status = work(column, out);
  }
  ThrowIfError(status);
  return keys;
}

template <typename Offset>
Keys HashColumn(const Offsets<Offset>& offsets, const Bytes& bytes, uint32_t seed) {
  return ToKeys<Offset>(offsets, bytes, [seed](const auto& column, std::span<uint64_t> keys) {
    return HashStrings(column, seed, keys);
  });
}

template <typename Offset>
Keys ParseHexColumn(const Offsets<Offset>& offsets, const Bytes& bytes) {
  return ToKeys<Offset>(offsets, bytes, [](const auto& column, std::span<uint64_t> keys) {
    return ParseHexStrings(column, keys);
  });
}

template <typename Offset>
void BindColumn(py::module_& module) {
  const auto offsets = py::arg("offsets").noconvert();
  const auto bytes = py::arg("bytes").noconvert();
  module.def("hash_strings", &HashColumn<Offset>, offsets, bytes, py::arg("seed"),
             "MurmurHash3 x64-128, low 64 bits, of strings in Arrow's layout.");
  module.def("parse_hex", &ParseHexColumn<Offset>, offsets, bytes,
             "Values of strings of 1 to 16 hexadecimal digits in Arrow's layout.");
}

}  // namespace

void BindHash(py::module_& module) {
  BindColumn<int32_t>(module);
  BindColumn<int64_t>(module);
  module.def(
      "table_salt",
      [](const std::string& name) { return Murmur3Low64(name.data(), name.size(), /*seed=*/0); },
      py::arg("name"), "The salt that a table's name mixes into its keys.");
}

}  // namespace embery
