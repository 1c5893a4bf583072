#include "base/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace embery {
namespace {

// Below this the heap wastes less than a mapping's rounding and a kernel call cost.
constexpr size_t kMappingBytesMin = size_t{256} << 10;

constexpr size_t RoundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

Region::~Region() {
  if (mapping_ != nullptr) {
    munmap(mapping_, mapping_bytes_);
  } else {
    std::free(data_);
  }
}

Region& Region::operator=(Region&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_bytes_, other.mapping_bytes_);
  return *this;
}

Region Region::Allocate(size_t bytes) {
  Region region;
  if (bytes < kMappingBytesMin) {
    const size_t rounded = RoundUp(bytes, kCacheLineBytes);
    region.data_ = static_cast<std::byte*>(std::aligned_alloc(kCacheLineBytes, rounded));
    if (region.data_ == nullptr) return {};
    std::memset(region.data_, 0, rounded);
    region.bytes_ = rounded;
    return region;
  }
  const bool huge = bytes >= kHugePageBytes;
  // A huge page needs its alignment; the slack is address space, never touched.
  const size_t mapping_bytes = bytes + (huge ? kHugePageBytes : 0);
  void* mapping = mmap(nullptr, mapping_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return {};
  region.mapping_ = static_cast<std::byte*>(mapping);
  region.mapping_bytes_ = mapping_bytes;
  region.data_ = region.mapping_;
  region.bytes_ = bytes;
  if (huge) {
    const auto address = reinterpret_cast<uintptr_t>(mapping);
    region.data_ += RoundUp(address, kHugePageBytes) - address;
    // Advice only: where huge pages are off, ordinary ones serve.
    (void)madvise(region.data_, bytes, MADV_HUGEPAGE);
  }
  return region;
}

}  // namespace embery
