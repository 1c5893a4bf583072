// Layout of a record: 20 bytes of metadata, the stored values, the optimizer state.
//
//   0  uint32  step of the table that last touched the row
//   4  uint32  time of that step, seconds since 1970
//   8  uint64  low 26 bits: what remains of the mixed key; high 38 bits: LSN
//  16  uint32  number of updates
//  20  values, then float32 state
//
// The rest of the key is the record's place: the group, and the tag of its index entry. What a pull
// reads (key bits, values) is contiguous. Touching a row means inserting it or pushing to it.
//
// Thread-safety: none of its own; the group's lock guards records. Ownership: a Record is a view.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/hash.h"
#include "optim/spec.h"

namespace embery {

using Lsn = uint64_t;
inline constexpr Lsn kLsnMax = (uint64_t{1} << (64 - kLowBits)) - 1;

struct RecordLayout {
  static constexpr size_t kValuesOffset = 20;

  RecordLayout(ValueType value_type, OptimizerKind optimizer, uint32_t dim)
      : value_bytes(ValueBytes(value_type, dim)),
        state_floats(StateFloats(optimizer, dim)),
        state_offset(kValuesOffset + value_bytes),
        stride(state_offset + size_t{state_floats} * sizeof(float)) {}

  size_t value_bytes;
  uint32_t state_floats;
  size_t state_offset;
  size_t stride;
};

class Record {
 public:
  explicit Record(std::byte* data) : data_(data) {}

  std::byte* data() const { return data_; }
  uint32_t step() const { return Load<uint32_t>(0); }
  uint32_t time_s() const { return Load<uint32_t>(4); }
  uint32_t low() const { return static_cast<uint32_t>(Load<uint64_t>(8) & kLowMask); }
  Lsn lsn() const { return Load<uint64_t>(8) >> kLowBits; }
  uint32_t updates() const { return Load<uint32_t>(16); }
  std::byte* values() const { return data_ + RecordLayout::kValuesOffset; }
  float* state(const RecordLayout& layout) const {
    return reinterpret_cast<float*>(data_ + layout.state_offset);
  }

  void SetTouched(uint32_t step, uint32_t time_s) {
    Store(0, step);
    Store(4, time_s);
  }
  void SetKeyAndLsn(uint32_t low, Lsn lsn) { Store(8, lsn << kLowBits | low); }
  void SetUpdates(uint32_t updates) { Store(16, updates); }

 private:
  template <typename T>
  T Load(size_t offset) const {
    T value;
    std::memcpy(&value, data_ + offset, sizeof(value));
    return value;
  }
  template <typename T>
  void Store(size_t offset, T value) {
    std::memcpy(data_ + offset, &value, sizeof(value));
  }

  std::byte* data_;
};

}  // namespace embery
