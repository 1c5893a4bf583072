#include "transport/rdma_verbs.h"

#include <dlfcn.h>

#include <string>

namespace embery::verbs {
namespace {

constexpr const char* kFile = "libibverbs.so.1";

// Finds functions, and remembers the first that is missing.
class Finder {
 public:
  explicit Finder(void* library) : library_(library) {}

  template <typename Function>
  void Find(Function& function, const char* name, const char* version) {
    // Older versions of the same names have other layouts, so each is asked for by its version.
    function = reinterpret_cast<Function>(dlvsym(library_, name, version));
    if (function == nullptr && missing_.empty()) missing_ = std::string(name) + "@" + version;
  }
  const std::string& missing() const { return missing_; }

 private:
  void* library_;
  std::string missing_;
};

}  // namespace

Result<Library> Load() {
  void* library = dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return Status::Unavailable(std::string(kFile) +
                               " is not installed (Debian: libibverbs1, ibverbs-providers)");
  }
  Library found{};
  Finder finder(library);
  finder.Find(found.fork_init, "ibv_fork_init", "IBVERBS_1.1");
  finder.Find(found.get_device_list, "ibv_get_device_list", "IBVERBS_1.1");
  finder.Find(found.free_device_list, "ibv_free_device_list", "IBVERBS_1.1");
  finder.Find(found.get_device_name, "ibv_get_device_name", "IBVERBS_1.1");
  finder.Find(found.open_device, "ibv_open_device", "IBVERBS_1.1");
  finder.Find(found.close_device, "ibv_close_device", "IBVERBS_1.1");
  finder.Find(found.query_port, "ibv_query_port", "IBVERBS_1.1");
  finder.Find(found.query_gid_table, "_ibv_query_gid_table", "IBVERBS_1.11");
  finder.Find(found.alloc_pd, "ibv_alloc_pd", "IBVERBS_1.1");
  finder.Find(found.dealloc_pd, "ibv_dealloc_pd", "IBVERBS_1.1");
  finder.Find(found.reg_mr, "ibv_reg_mr", "IBVERBS_1.1");
  finder.Find(found.dereg_mr, "ibv_dereg_mr", "IBVERBS_1.1");
  finder.Find(found.create_comp_channel, "ibv_create_comp_channel", "IBVERBS_1.0");
  finder.Find(found.destroy_comp_channel, "ibv_destroy_comp_channel", "IBVERBS_1.0");
  finder.Find(found.create_cq, "ibv_create_cq", "IBVERBS_1.1");
  finder.Find(found.destroy_cq, "ibv_destroy_cq", "IBVERBS_1.1");
  finder.Find(found.get_cq_event, "ibv_get_cq_event", "IBVERBS_1.1");
  finder.Find(found.ack_cq_events, "ibv_ack_cq_events", "IBVERBS_1.1");
  finder.Find(found.create_qp, "ibv_create_qp", "IBVERBS_1.1");
  finder.Find(found.modify_qp, "ibv_modify_qp", "IBVERBS_1.1");
  finder.Find(found.destroy_qp, "ibv_destroy_qp", "IBVERBS_1.1");
  finder.Find(found.wc_status_str, "ibv_wc_status_str", "IBVERBS_1.1");
  if (finder.missing().empty()) return found;
  return Status::Unavailable(std::string(kFile) + " has no " + finder.missing() +
                             "; rdma-core 32 or newer is needed");
}

}  // namespace embery::verbs
