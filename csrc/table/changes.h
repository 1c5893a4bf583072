// What happens to the rows of a slot group, as bytes by which a group of another store does the
// same. One after the other:
//
//   row        uint8 1; uint64 mixed key; the record, as record.h lays it out
//   deletion   uint8 2; uint64 mixed key; uint64 LSN
//   candidate  uint8 3; uint64 mixed key, last operation; uint16 pulls, pushes
//   admitted   uint8 4; uint64 mixed key, which is no candidate any more
//   slot       uint8 5; uint64 LSN; uint32 slot
//   cleared    uint8 6; all rows, candidates and tombstones are gone
//
// A row is what it is after the change, not what changed it: repeating it costs a copy.
//
// Thread-safety: as for any value. Ownership: owns its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "base/status.h"
#include "table/admission.h"
#include "table/record.h"

namespace embery {

enum class ChangeKind : uint8_t { kRow = 1, kDeletion, kCandidate, kAdmitted, kSlot, kCleared };

class ChangeLog {
 public:
  void AddRow(uint64_t mixed, const std::byte* record, size_t stride) {
    std::byte* to = Grow(ChangeKind::kRow, sizeof(mixed) + stride);
    std::memcpy(to, &mixed, sizeof(mixed));
    std::memcpy(to + sizeof(mixed), record, stride);
  }
  void AddDeletion(uint64_t mixed, Lsn lsn) { Add(ChangeKind::kDeletion, mixed, lsn); }
  void AddCandidate(const Candidate& candidate) {
    Add(ChangeKind::kCandidate, candidate.mixed, candidate.last_operation, candidate.pulls,
        candidate.pushes);
  }
  void AddAdmitted(uint64_t mixed) { Add(ChangeKind::kAdmitted, mixed); }
  void AddSlot(Lsn lsn, uint32_t slot) { Add(ChangeKind::kSlot, lsn, slot); }
  void AddCleared() { Add(ChangeKind::kCleared); }

  bool empty() const { return bytes_.empty(); }
  size_t size() const { return bytes_.size(); }
  std::vector<std::byte> Take() { return std::exchange(bytes_, {}); }

 private:
  std::byte* Grow(ChangeKind kind, size_t bytes) {
    const size_t at = bytes_.size();
    bytes_.resize(at + 1 + bytes);
    bytes_[at] = static_cast<std::byte>(kind);
    return bytes_.data() + at + 1;
  }
  template <typename... Fields>
  void Add(ChangeKind kind, const Fields&... fields) {
    std::byte* to = Grow(kind, (size_t{0} + ... + sizeof(fields)));
    ((std::memcpy(to, &fields, sizeof(fields)), to += sizeof(fields)), ...);
  }

  std::vector<std::byte> bytes_;
};

// Reads changes from bytes that may be anything.
class ChangeReader {
 public:
  explicit ChangeReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  bool done() const { return rest_.empty(); }
  Status ReadKind(ChangeKind& kind) {
    uint8_t number = 0;
    EMBERY_RETURN_IF_ERROR(Read(number));
    kind = static_cast<ChangeKind>(number);
    const bool is_known = kind >= ChangeKind::kRow && kind <= ChangeKind::kCleared;
    return is_known ? Status::Ok() : Malformed();
  }
  template <typename... Fields>
  Status Read(Fields&... fields) {
    if (rest_.size() < (size_t{0} + ... + sizeof(fields))) return Malformed();
    ((std::memcpy(&fields, rest_.data(), sizeof(fields)), rest_ = rest_.subspan(sizeof(fields))),
     ...);
    return Status::Ok();
  }
  // `bytes` bytes where they lie.
  Status View(size_t bytes, const std::byte*& data) {
    if (rest_.size() < bytes) return Malformed();
    data = rest_.data();
    rest_ = rest_.subspan(bytes);
    return Status::Ok();
  }

 private:
  static Status Malformed() {
    return Status::InvalidArgument("malformed changes of rows: they end early, or are none");
  }

  std::span<const std::byte> rest_;
};

}  // namespace embery
