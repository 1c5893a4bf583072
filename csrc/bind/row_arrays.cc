// Arrays for rows on their way out of a store.
#include <pybind11/numpy.h>

#include <memory>
#include <new>

#include "base/region_pool.h"
#include "bind/bind.h"

namespace py = pybind11;

namespace embery {
namespace {

// Below this an array comes from NumPy, whose heap is quick to give small memory again.
constexpr size_t kPooledBytesMin = size_t{1} << 20;

// Never destroyed: an array may outlive everything else.
RegionPool& Pool() {
  static auto* const pool = new RegionPool;
  return *pool;
}

py::array_t<float> EmptyRows(py::ssize_t count, py::ssize_t dim) {
  const size_t bytes = static_cast<size_t>(count) * static_cast<size_t>(dim) * sizeof(float);
  if (bytes < kPooledBytesMin) return py::array_t<float>({count, dim});
  auto region = std::make_unique<Region>(Pool().Take(bytes));
  if (!*region) throw std::bad_alloc();
  auto* data = reinterpret_cast<float*>(region->data());
  const py::capsule owner(region.release(), [](void* owned) {
    const std::unique_ptr<Region> back(static_cast<Region*>(owned));
    Pool().Return(std::move(*back));
  });
  return py::array_t<float>({count, dim}, data, owner);
}

}  // namespace

void BindRowArrays(py::module_& module) {
  module.def(
      "empty_rows", &EmptyRows, py::arg("count"), py::arg("dim"),
      "A float32 array of shape (count, dim), its contents undefined. A large one is aligned "
      "to a cache line, lies on huge pages and is used again when it is freed.");
}

}  // namespace embery
