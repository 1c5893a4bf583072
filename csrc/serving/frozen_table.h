// A table that never changes: a file of rows with an index, mapped into memory.
//
// The file (docs/formats/bundle.md) is a header page, then three arrays, each from a page boundary:
//   starts   uint32, buckets + 1: the keys of bucket b are [starts[b], starts[b + 1])
//   keys     uint64, rows, bucket by bucket
//   values   rows times row_bytes, in the order of the keys
// A key's bucket is a function of its mixed hash, and there are about four keys in one, compared
// one by one: a key that is there is found, one that is not is missed, whatever the hash does.
//
// Thread-safety: all methods may be called from any thread. Ownership: the table holds its mapping,
// which is read-only and shared, so that all processes which open the file use one copy of its
// pages; pointers into it live as long as the table. Invariant: whatever bytes the arrays hold, no
// read leaves the mapping. A file that is cut short after it was opened ends the process: replace
// files, never write to them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/hash.h"
#include "base/status.h"
#include "optim/spec.h"

namespace embery {

inline constexpr uint32_t kFrozenTableVersion = 1;
inline constexpr size_t kFrozenPageBytes = 4096;
inline constexpr uint64_t kFrozenKeysPerBucket = 4;
inline constexpr uint64_t kFrozenRowsMax = 0xfffffffe;

// The first bytes of the file; zeros fill up the page. Little-endian.
struct FrozenHeader {
  char magic[8];  // "EMBERYTB"
  uint32_t version;
  uint32_t value_type;  // ValueType
  uint32_t dim;
  uint32_t row_bytes;
  uint64_t rows;
  uint64_t buckets;
  uint64_t salt;  // Of the table's name; mixed into the keys.
};
static_assert(sizeof(FrozenHeader) == 48);

class FrozenTable {
 public:
  // Maps a file and checks its header and size. CheckpointCorrupt if they are wrong, Unavailable if
  // the file cannot be read. Reads no more than a few pages.
  static Result<std::shared_ptr<const FrozenTable>> Open(const std::string& path);

  // As above, of a file that holds only the rows of `base` that have changed since; all others are
  // in `base`, which has no base itself. CheckpointCorrupt if they are not of the same table.
  static Result<std::shared_ptr<const FrozenTable>> OpenChanges(
      const std::string& path, std::shared_ptr<const FrozenTable> base);

  ~FrozenTable();
  FrozenTable(const FrozenTable&) = delete;
  FrozenTable& operator=(const FrozenTable&) = delete;

  ValueType value_type() const { return static_cast<ValueType>(header_.value_type); }
  uint32_t dim() const { return header_.dim; }
  size_t row_bytes() const { return header_.row_bytes; }
  uint64_t rows() const { return header_.rows; }
  uint64_t salt() const { return header_.salt; }
  const FrozenTable* base() const { return base_.get(); }

  // The position of a key's row in this file, or -1; its base is not asked.
  int64_t Position(uint64_t key) const;

  // The steps of a look-up, apart so that many can overlap: the bucket of a key, where its entry of
  // `starts` lies, its keys, and the row, or null if the key is not there.
  uint64_t BucketOf(uint64_t key) const {
    return (MixKey(header_.salt, key).bits >> 32) * header_.buckets >> 32;
  }
  const uint32_t* StartOf(uint64_t bucket) const { return starts_ + bucket; }
  const uint64_t* KeysFrom(uint32_t start) const { return keys_ + start; }
  const std::byte* FindIn(uint64_t bucket, uint64_t key) const {
    const uint64_t end = starts_[bucket + 1];
    if (end > header_.rows) return nullptr;
    for (uint64_t at = starts_[bucket]; at < end; ++at) {
      if (keys_[at] == key) return values_ + at * header_.row_bytes;
    }
    return nullptr;
  }

 private:
  FrozenTable(const std::byte* mapping, const FrozenHeader& header);
  static Result<std::shared_ptr<FrozenTable>> Map(const std::string& path);

  const FrozenHeader header_;
  const std::byte* const mapping_;
  const size_t bytes_;
  const uint32_t* const starts_;
  const uint64_t* const keys_;
  const std::byte* const values_;
  std::shared_ptr<const FrozenTable> base_;
};

}  // namespace embery
