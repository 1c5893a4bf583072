#include "transport/rdma_device.h"

#include <arpa/inet.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

#include "transport/socket.h"

namespace embery {
namespace {

constexpr size_t kGidsMax = 1024;
// A slab is a mapping of its own, whose pages a forked child does without.
constexpr size_t kSlabUnit = size_t{256} << 10;

bool IsIpv4(const verbs::Gid& gid) {
  constexpr std::array<uint8_t, 12> kPrefix{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  return std::equal(kPrefix.begin(), kPrefix.end(), gid.bytes);
}

bool IsLinkLocal(const verbs::Gid& gid) { return gid.bytes[0] == 0xfe && gid.bytes[1] == 0x80; }

std::string Text(const verbs::Gid& gid) {
  char text[INET6_ADDRSTRLEN] = "";
  if (IsIpv4(gid)) {
    inet_ntop(AF_INET, gid.bytes + 12, text, sizeof(text));
  } else {
    inet_ntop(AF_INET6, gid.bytes, text, sizeof(text));
  }
  return text;
}

int Rank(const verbs::GidEntry& entry, int wanted_index) {
  if (entry.type != verbs::GidType::kRoceV2) return 0;
  if (wanted_index >= 0) return entry.index == static_cast<uint32_t>(wanted_index) ? 1 : 0;
  if (IsIpv4(entry.gid)) return 3;
  return IsLinkLocal(entry.gid) ? 1 : 2;
}

}  // namespace

// ---- device -------------------------------------------------------------------------------------

Result<std::shared_ptr<const RdmaDevice>> RdmaDevice::Open(const RdmaOptions& options) {
  const Result<verbs::Library> library = verbs::Load();
  if (!library.ok()) return library.status();
  // Before all else, or a fork would take registered pages away from the device.
  if (library.value().fork_init() != 0) {
    return Status::Unavailable("libibverbs cannot stand a fork on this system");
  }
  const std::shared_ptr<RdmaDevice> device(new RdmaDevice(library.value()));
  int count = 0;
  verbs::Device** devices = library.value().get_device_list(&count);
  if (devices == nullptr || count == 0) {
    if (devices != nullptr) library.value().free_device_list(devices);
    return Status::Unavailable("no RDMA device: ibv_get_device_list found none");
  }
  std::string reasons;
  for (int i = 0; i < count; ++i) {
    const std::string reason = device->Consider(devices[i], options);
    if (!reason.empty()) reasons += (reasons.empty() ? "" : "; ") + reason;
  }
  library.value().free_device_list(devices);
  if (device->rank_ == 0) return Status::Unavailable("no RDMA device is fit: " + reasons);
  device->domain_ = library.value().alloc_pd(device->context_);
  if (device->domain_ == nullptr) {
    return Status::Unavailable(device->name_ + ": no protection domain (" + ErrorText(errno) + ")");
  }
  return std::shared_ptr<const RdmaDevice>(device);
}

std::string RdmaDevice::Consider(verbs::Device* candidate, const RdmaOptions& options) {
  const std::string name = library_.get_device_name(candidate);
  if (!options.device.empty() && name != options.device) {
    return name + " is not '" + options.device + "'";
  }
  verbs::Context* context = library_.open_device(candidate);
  if (context == nullptr) return name + " cannot be opened (" + ErrorText(errno) + ")";
  std::vector<verbs::GidEntry> gids(kGidsMax);
  const ssize_t count =
      library_.query_gid_table(context, gids.data(), gids.size(), 0, sizeof(verbs::GidEntry));
  gids.resize(count > 0 ? static_cast<size_t>(count) : 0);
  std::string reason =
      name + " has no RoCE v2 GID" +
      (options.gid_index < 0 ? "" : " with the index " + std::to_string(options.gid_index));
  bool taken = false;
  for (const verbs::GidEntry& gid : gids) {
    const int rank = Rank(gid, options.gid_index);
    if (rank <= rank_) continue;
    verbs::Port port{};
    const std::string where = name + " port " + std::to_string(gid.port);
    if (library_.query_port(context, static_cast<uint8_t>(gid.port), &port) != 0 ||
        port.state != verbs::PortState::kActive) {
      reason = where + " is not active";
      continue;
    }
    rank_ = rank;
    gid_ = gid;
    mtu_ = port.mtu;
    name_ = where + " as " + Text(gid.gid);
    taken = true;
  }
  if (taken) std::swap(context, context_);
  if (context != nullptr) library_.close_device(context);
  return taken ? "" : reason;
}

RdmaDevice::~RdmaDevice() {
  if (domain_ != nullptr) library_.dealloc_pd(domain_);
  if (context_ != nullptr) library_.close_device(context_);
}

// ---- memory -------------------------------------------------------------------------------------

Result<Slab> Slab::Make(std::shared_ptr<const RdmaDevice> device, size_t bytes, Access access) {
  Slab slab;
  slab.size_ = (bytes + kSlabUnit - 1) / kSlabUnit * kSlabUnit;
  slab.region_ = Region::Allocate(slab.size_);
  const std::string what = std::to_string(slab.size_) + " bytes for " + device->name();
  if (!slab.region_) return Status::ResourceExhausted("no memory of " + what);
  const unsigned remote = access == Access::kRemoteWrite ? verbs::kAccessRemoteWrite : 0;
  slab.registered_ = device->library().reg_mr(device->domain(), slab.region_.data(), slab.size_,
                                              static_cast<int>(verbs::kAccessLocalWrite | remote));
  if (slab.registered_ == nullptr) {
    const int error = errno;
    rlimit limit{};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    return Status::ResourceExhausted(
        "cannot lock " + what + " (" + ErrorText(error) + "); " +
        (limit.rlim_cur == RLIM_INFINITY
             ? std::string("locked memory is not limited")
             : "this process may lock " + std::to_string(limit.rlim_cur) +
                   " bytes: raise it with ulimit -l, or LimitMEMLOCK= in a systemd unit"));
  }
  slab.device_ = std::move(device);
  return slab;
}

Slab::~Slab() {
  if (registered_ != nullptr) device_->library().dereg_mr(registered_);
}

Slab& Slab::operator=(Slab&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(region_, other.region_);
  std::swap(size_, other.size_);
  std::swap(registered_, other.registered_);
  return *this;
}

}  // namespace embery
