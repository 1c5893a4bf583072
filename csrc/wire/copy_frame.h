// What a server tells those that hold copies of its slots, in the body of a kCopy frame.
//
//   uint64 routing version, frame number; uint32 server; uint32 items
//   of each item: uint32 kind; uint32 group; uint64 salt of its table; uint64 bytes; the bytes, and
//   zeros up to a multiple of 8
//
// Frames of a server are numbered in the order in which they are to be repeated; one that comes
// again has its number. Decoding checks every length, and that nothing is left over.
//
// Thread-safety: pure functions and values. Ownership: a decoded frame borrows the body, which must
// be aligned to 8 bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "base/status.h"

namespace embery {

// What is said of a frame that makes no sense.
Status MalformedCopy(const std::string& what);

enum class CopyKind : uint32_t {
  kBegin = 1,  // CopyRange: slots that follow; and the windows of pushes to them.
  kPushes,     // Pushes that were applied, with their slots.
  kChanges,    // Of the rows of a group, as changes.h has them.
  kTotals,     // SlotGroup::Totals of the server's group, present ones.
  kStep,       // uint64: the step of a table.
};

struct CopyRange {
  uint32_t begin;
  uint32_t end;
};

struct CopyItem {
  CopyKind kind;
  uint32_t group;
  uint64_t salt;
  std::span<const std::byte> bytes;

  // The bytes as an array; kInvalidArgument if they are none.
  template <typename T>
  Result<std::span<const T>> As() const {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 8);
    if (bytes.size() % sizeof(T) != 0) {
      return MalformedCopy("an item has a part of an element");
    }
    return std::span<const T>(reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T));
  }
};

struct CopyHead {
  uint64_t routing_version;
  uint64_t frame;
  uint32_t server;
  uint32_t items = 0;
};

struct CopyFrame {
  CopyHead head;
  std::vector<CopyItem> items;
};

class CopyFrameWriter {
 public:
  explicit CopyFrameWriter(const CopyHead& head);

  void Add(const CopyItem& item);
  template <typename T>
  void Add(CopyKind kind, uint32_t group, uint64_t salt, std::span<const T> values) {
    Add({kind, group, salt, std::as_bytes(values)});
  }
  std::vector<std::byte> Take();

 private:
  std::vector<std::byte> bytes_;
  uint32_t items_ = 0;
};

Result<CopyFrame> DecodeCopyFrame(std::span<const std::byte> body);

}  // namespace embery
