// What of libibverbs is used here: the layouts of its types, and its functions, found at run time,
// so that one build serves machines with and without it.
//
// The layouts are the binary interface of libibverbs.so.1, which is stable; types that only the
// library makes are declared up to the last field used. Names follow the library's, in this house's
// style. Posting and polling have no symbols: they go through a table in the context.
//
// Thread-safety: pure declarations; the library's functions may be called from any thread.
// Ownership: the library is never unloaded, for its providers leave handlers behind.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/status.h"

namespace embery::verbs {

struct Device;
struct Cq;
struct Qp;
struct SendRequest;
struct ReceiveRequest;
struct Completion;

struct Context {
  Device* device;
  struct {
    void* unused_1[11];
    int (*poll_cq)(Cq*, int count, Completion*);
    int (*request_notify_cq)(Cq*, int solicited_only);
    void* unused_2[12];
    int (*post_send)(Qp*, SendRequest*, SendRequest** bad);
    int (*post_receive)(Qp*, ReceiveRequest*, ReceiveRequest** bad);
    void* unused_3[5];
  } operations;
};
static_assert(offsetof(Context, operations.poll_cq) == 8 + 88);
static_assert(offsetof(Context, operations.post_send) == 8 + 200);

struct ProtectionDomain;

struct MemoryRegion {
  Context* context;
  ProtectionDomain* domain;
  void* address;
  size_t bytes;
  uint32_t handle;
  uint32_t local_key;
  uint32_t remote_key;
};
static_assert(offsetof(MemoryRegion, remote_key) == 40);

struct Channel {
  Context* context;
  int fd;
};

struct Cq {
  Context* context;
};

struct Qp {
  Context* context;
  void* user;
  ProtectionDomain* domain;
  Cq* send_cq;
  Cq* receive_cq;
  void* shared_receives;
  uint32_t handle;
  uint32_t number;
};
static_assert(offsetof(Qp, number) == 52);

inline constexpr unsigned kAccessLocalWrite = 1;
inline constexpr unsigned kAccessRemoteWrite = 2;

struct QpCapacity {
  uint32_t sends;
  uint32_t receives;
  uint32_t send_pieces;
  uint32_t receive_pieces;
  uint32_t inline_bytes;
};

enum class QpType : uint32_t { kNone, kReliableConnection = 2 };

struct QpInit {
  void* user;
  Cq* send_cq;
  Cq* receive_cq;
  void* shared_receives;
  QpCapacity capacity;
  QpType type;
  int signal_all;
};
static_assert(sizeof(QpInit) == 64);

enum class QpState : uint32_t {
  kReset,
  kInit,
  kReadyToReceive,
  kReadyToSend,
  kDrained,
  kError = 6
};

struct alignas(8) Gid {
  uint8_t bytes[16];
};

struct GlobalRoute {
  Gid destination;
  uint32_t flow_label;
  uint8_t source_index;
  uint8_t hop_limit;
  uint8_t traffic_class;
};

struct PathAddress {
  GlobalRoute route;
  uint16_t local_id;
  uint8_t service_level;
  uint8_t source_path_bits;
  uint8_t rate;
  uint8_t is_global;
  uint8_t port;
};
static_assert(sizeof(PathAddress) == 32);

struct QpChange {
  QpState state;
  QpState current_state;
  uint32_t path_mtu;
  uint32_t migration_state;
  uint32_t queue_key;
  uint32_t receive_sequence;
  uint32_t send_sequence;
  uint32_t peer_qp;
  unsigned access;
  QpCapacity capacity;
  PathAddress path;
  PathAddress other_path;
  uint16_t partition_index;
  uint16_t other_partition_index;
  uint8_t notify_drained;
  uint8_t draining;
  uint8_t reads_out_max;
  uint8_t reads_in_max;
  uint8_t receiver_wait;
  uint8_t port;
  uint8_t timeout;
  uint8_t retries;
  uint8_t receiver_retries;
  uint8_t other_port;
  uint8_t other_timeout;
  uint32_t rate_limit;
};
static_assert(offsetof(QpChange, path) == 56 && offsetof(QpChange, partition_index) == 120);
static_assert(sizeof(QpChange) == 144);

// Which fields of a QpChange count.
enum QpChangeField : int {
  kChangeState = 1 << 0,
  kChangeAccess = 1 << 3,
  kChangePartition = 1 << 4,
  kChangePort = 1 << 5,
  kChangePath = 1 << 7,
  kChangePathMtu = 1 << 8,
  kChangeTimeout = 1 << 9,
  kChangeRetries = 1 << 10,
  kChangeReceiverRetries = 1 << 11,
  kChangeReceiveSequence = 1 << 12,
  kChangeReadsOut = 1 << 13,
  kChangeReceiverWait = 1 << 15,
  kChangeSendSequence = 1 << 16,
  kChangeReadsIn = 1 << 17,
  kChangePeerQp = 1 << 20,
};

struct Piece {
  uint64_t address;
  uint32_t bytes;
  uint32_t local_key;
};
static_assert(sizeof(Piece) == 16);

enum class SendKind : uint32_t { kWrite, kWriteWithImmediate, kSend, kSendWithImmediate };
inline constexpr unsigned kSendSignaled = 2;

struct SendRequest {
  uint64_t id;
  SendRequest* next;
  Piece* pieces;
  int piece_count;
  SendKind kind;
  unsigned flags;
  uint32_t immediate;  // In network order.
  uint64_t remote_address;
  uint32_t remote_key;
  uint64_t unused[9];
};
static_assert(offsetof(SendRequest, remote_address) == 40 && sizeof(SendRequest) == 128);

struct ReceiveRequest {
  uint64_t id;
  ReceiveRequest* next;
  Piece* pieces;
  int piece_count;
};
static_assert(sizeof(ReceiveRequest) == 32);

enum class CompletionStatus : uint32_t { kSuccess = 0, kFlushed = 5, kRetriesExceeded = 12 };
enum class CompletionKind : uint32_t { kReceived = 128, kWrittenWithImmediate = 129 };
inline constexpr unsigned kHasImmediate = 2;

struct Completion {
  uint64_t id;
  CompletionStatus status;
  CompletionKind kind;
  uint32_t vendor_error;
  uint32_t bytes;
  uint32_t immediate;  // In network order.
  uint32_t qp;
  uint32_t peer_qp;
  unsigned flags;
  uint64_t unused;
};
static_assert(offsetof(Completion, flags) == 36 && sizeof(Completion) == 48);

enum class PortState : uint32_t { kUnknown, kActive = 4 };

struct Port {
  PortState state;
  uint32_t mtu_max;
  uint32_t mtu;
  int gid_count;
  uint32_t capabilities;
  uint32_t message_bytes_max;
  uint32_t unused[7];
};
static_assert(sizeof(Port) == 52);

enum class GidType : uint32_t { kInfiniBand, kRoceV1, kRoceV2 };

struct GidEntry {
  Gid gid;
  uint32_t index;
  uint32_t port;
  GidType type;
  uint32_t interface;
};
static_assert(sizeof(GidEntry) == 32);

// The library's functions, by its own names without the prefix.
struct Library {
  std::add_pointer_t<int()> fork_init;
  std::add_pointer_t<Device**(int* count)> get_device_list;
  std::add_pointer_t<void(Device**)> free_device_list;
  std::add_pointer_t<const char*(Device*)> get_device_name;
  std::add_pointer_t<Context*(Device*)> open_device;
  std::add_pointer_t<int(Context*)> close_device;
  std::add_pointer_t<int(Context*, uint8_t port, Port*)> query_port;
  std::add_pointer_t<ssize_t(Context*, GidEntry*, size_t count, uint32_t flags, size_t bytes)>
      query_gid_table;
  std::add_pointer_t<ProtectionDomain*(Context*)> alloc_pd;
  std::add_pointer_t<int(ProtectionDomain*)> dealloc_pd;
  std::add_pointer_t<MemoryRegion*(ProtectionDomain*, void*, size_t bytes, int access)> reg_mr;
  std::add_pointer_t<int(MemoryRegion*)> dereg_mr;
  std::add_pointer_t<Channel*(Context*)> create_comp_channel;
  std::add_pointer_t<int(Channel*)> destroy_comp_channel;
  std::add_pointer_t<Cq*(Context*, int entries, void* user, Channel*, int vector)> create_cq;
  std::add_pointer_t<int(Cq*)> destroy_cq;
  std::add_pointer_t<int(Channel*, Cq**, void** user)> get_cq_event;
  std::add_pointer_t<void(Cq*, unsigned count)> ack_cq_events;
  std::add_pointer_t<Qp*(ProtectionDomain*, QpInit*)> create_qp;
  std::add_pointer_t<int(Qp*, QpChange*, int fields)> modify_qp;
  std::add_pointer_t<int(Qp*)> destroy_qp;
  std::add_pointer_t<const char*(CompletionStatus)> wc_status_str;
};

// kUnavailable if it is not installed, or too old.
Result<Library> Load();

}  // namespace embery::verbs
