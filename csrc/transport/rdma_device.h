// An RDMA device that speaks RoCE v2, and memory registered with it.
//
// Thread-safety: a device may be used from any thread; a Slab by one at a time. Ownership: a Slab
// owns its memory and its registration, and shares the device. Invariant: of an open device the
// port was active and the GID was in its table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/memory.h"
#include "base/status.h"
#include "transport/rdma_verbs.h"

namespace embery {

struct RdmaOptions {
  std::string device;  // Its name, as "mlx5_0"; empty takes the first that is fit.
  int gid_index = -1;  // In the table of the device's port; -1 takes an IPv4 one, else an IPv6 one.
};

class RdmaDevice {
 public:
  // kUnavailable says why there is none.
  static Result<std::shared_ptr<const RdmaDevice>> Open(const RdmaOptions& options);
  ~RdmaDevice();
  RdmaDevice(const RdmaDevice&) = delete;
  RdmaDevice& operator=(const RdmaDevice&) = delete;

  const verbs::Library& library() const { return library_; }
  verbs::Context* context() const { return context_; }
  verbs::ProtectionDomain* domain() const { return domain_; }
  const verbs::GidEntry& gid() const { return gid_; }
  uint32_t mtu() const { return mtu_; }  // As verbs count: 1 is 256 bytes, 5 is 4096.
  // For messages: "rxe0 port 1 as 10.77.0.1".
  const std::string& name() const { return name_; }

 private:
  explicit RdmaDevice(const verbs::Library& library) : library_(library) {}

  // Takes the device if its GIDs are better than those of the present one; else says why not.
  std::string Consider(verbs::Device* candidate, const RdmaOptions& options);

  const verbs::Library library_;
  verbs::Context* context_ = nullptr;
  verbs::ProtectionDomain* domain_ = nullptr;
  verbs::GidEntry gid_{};
  int rank_ = 0;  // How well the GID suits; 0 is not at all.
  uint32_t mtu_ = 0;
  std::string name_;
};

// Memory that the device reads, and writes, while the processor does other things.
class Slab {
 public:
  enum class Access : uint8_t { kLocal, kRemoteWrite };

  Slab() = default;
  ~Slab();
  Slab(Slab&& other) noexcept { *this = std::move(other); }
  Slab& operator=(Slab&& other) noexcept;

  // kResourceExhausted names the limit that stood in the way.
  static Result<Slab> Make(std::shared_ptr<const RdmaDevice> device, size_t bytes, Access access);

  std::span<std::byte> bytes() const { return {region_.data(), size_}; }
  uint32_t local_key() const { return registered_->local_key; }
  uint32_t remote_key() const { return registered_->remote_key; }

 private:
  std::shared_ptr<const RdmaDevice> device_;
  Region region_;
  size_t size_ = 0;
  verbs::MemoryRegion* registered_ = nullptr;
};

}  // namespace embery
